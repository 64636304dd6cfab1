// Package serverpid reads from a driver's connection which server process it was
// told it talks to. If pg_backend_pid() says the same, nobody else uses that
// process: a pooler in between makes the number up (BackendKeyData in "Message
// Formats", PostgreSQL manual).
package serverpid

import "reflect"

// Of returns the number that the driver was told, or 0 if it does not say. It
// knows pgx, whose Conn().PgConn().PID() is public, and lib/pq, which keeps it in
// a field, processID before 1.12 and pid since; a driver that is wrapped in another is
// not looked into.
func Of(driverConn any) (pid int64) {
	defer func() {
		if recover() != nil { // another driver with methods of these names
			pid = 0
		}
	}()
	v := reflect.ValueOf(driverConn)
	for _, name := range []string{"Conn", "PgConn", "PID"} {
		method := v.MethodByName(name)
		if !method.IsValid() || method.Type().NumIn() != 0 || method.Type().NumOut() != 1 {
			return field(v)
		}
		v = method.Call(nil)[0]
	}
	return int64(v.Uint()) //nolint:gosec // 32 bits
}

func field(v reflect.Value) int64 {
	v = reflect.Indirect(v)
	if v.Kind() != reflect.Struct {
		return 0
	}
	for _, name := range []string{"processID", "pid"} {
		if f := v.FieldByName(name); f.IsValid() && f.CanInt() {
			return f.Int()
		}
	}
	return 0
}
