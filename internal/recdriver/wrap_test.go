package recdriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"testing"
)

// The shapes of connection that a wrapped driver may have. Embedding an
// interface hides all methods but its own.
type (
	bareConn        struct{ driver.Conn } // nothing optional at all
	bareStmt        struct{ driver.Stmt }
	legacyConn      struct{ bareConn } // Exec and Query without ctx
	execConn        struct{ bareConn } // ExecContext only
	queryConn       struct{ bareConn } // QueryContext only
	fastConn        struct{ bareConn } // both
	skipConn        struct{ driver.Conn }
	checkConn       struct{ fastConn }
	checkStmtConn   struct{ driver.Conn }
	checkStmt       struct{ bareStmt }
	convertStmtConn struct{ driver.Conn }
	convertStmt     struct{ bareStmt }
)

func (c bareConn) Prepare(query string) (driver.Stmt, error) {
	s, err := c.Conn.Prepare(query)
	return bareStmt{s}, err
}

func (c legacyConn) Exec(query string, args []driver.Value) (driver.Result, error) {
	return c.Conn.(driver.ExecerContext).ExecContext(bg, query, namedArgs(args))
}

func (c legacyConn) Query(query string, args []driver.Value) (driver.Rows, error) {
	return c.Conn.(driver.QueryerContext).QueryContext(bg, query, namedArgs(args))
}

func (c execConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
}

func (c queryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (c fastConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return execConn(c).ExecContext(ctx, query, args)
}

func (c fastConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return queryConn(c).QueryContext(ctx, query, args)
}

func (c skipConn) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return nil, driver.ErrSkip
}

func (c skipConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return nil, driver.ErrSkip
}

func (c checkStmtConn) Prepare(query string) (driver.Stmt, error) {
	s, err := c.Conn.Prepare(query)
	return checkStmt{bareStmt{s}}, err
}

func (c convertStmtConn) Prepare(query string) (driver.Stmt, error) {
	s, err := c.Conn.Prepare(query)
	return convertStmt{bareStmt{s}}, err
}

type own struct{ n int }

func check(nv *driver.NamedValue) error {
	if o, ok := nv.Value.(own); ok {
		nv.Value = int64(o.n)
		return nil
	}
	return driver.ErrSkip
}

func (checkConn) CheckNamedValue(nv *driver.NamedValue) error { return check(nv) }
func (checkStmt) CheckNamedValue(nv *driver.NamedValue) error { return check(nv) }

func (convertStmt) ColumnConverter(int) driver.ValueConverter { return convert{} }

type convert struct{}

func (convert) ConvertValue(v any) (driver.Value, error) {
	if o, ok := v.(own); ok {
		return int64(o.n), nil
	}
	return driver.DefaultParameterConverter.ConvertValue(v)
}

var shapes = map[string]func(driver.Conn) driver.Conn{
	"full":         func(c driver.Conn) driver.Conn { return c },
	"bare":         func(c driver.Conn) driver.Conn { return bareConn{c} },
	"legacy":       func(c driver.Conn) driver.Conn { return legacyConn{bareConn{c}} },
	"exec only":    func(c driver.Conn) driver.Conn { return execConn{bareConn{c}} },
	"query only":   func(c driver.Conn) driver.Conn { return queryConn{bareConn{c}} },
	"skips":        func(c driver.Conn) driver.Conn { return skipConn{c} },
	"conn checks":  func(c driver.Conn) driver.Conn { return checkConn{fastConn{bareConn{c}}} },
	"stmt checks":  func(c driver.Conn) driver.Conn { return checkStmtConn{c} },
	"stmt convert": func(c driver.Conn) driver.Conn { return convertStmtConn{c} },
}

// shaped gives the connections of d another shape.
type shaped struct {
	d     *Driver
	shape func(driver.Conn) driver.Conn
}

func (s shaped) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := s.d.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return s.shape(c), nil
}

func (s shaped) Driver() driver.Driver { return s.d.Driver() }

func openShaped(c shaped, wrapped bool) *sql.DB {
	if wrapped {
		return Wrap(c).OpenDB()
	}
	return sql.OpenDB(c)
}

// extra asks what work does not: odd arguments, options and cancelled ctxs.
func extra(db *sql.DB) (log []string) {
	note := func(v any, err error) { log = append(log, fmt.Sprintf("%v, %v", v, err)) }
	for _, args := range [][]any{{own{7}}, {sql.Named("n", 1)}, {struct{}{}}, {nil, "x"}} {
		res, err := db.Exec("INSERT", args...)
		note(res != nil, err)
		var n int
		err = db.QueryRow("SELECT", args...).Scan(&n)
		note(n, err)
		if st, err := db.Prepare("S"); err == nil {
			res, err := st.Exec(args...)
			note(res != nil, err)
			st.Close()
		}
	}
	for _, opts := range []*sql.TxOptions{{Isolation: sql.LevelSerializable}, {ReadOnly: true}} {
		tx, err := db.BeginTx(bg, opts)
		note(nil, err)
		if err == nil {
			note(nil, tx.Rollback())
		}
	}
	return log
}

func TestWrapperIsTransparent(t *testing.T) {
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			var logs [2][]string
			var orders [2]string
			for i := range logs {
				inner := everything()
				c := shaped{inner, shape}
				db := openShaped(c, i == 1)
				logs[i] = append(work(bg, db), extra(db)...)
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				orders[i] = inner.String()
			}
			if !reflect.DeepEqual(logs[0], logs[1]) {
				t.Errorf("results differ\nbare    %q\nwrapped %q", logs[0], logs[1])
			}
			if orders[0] != orders[1] {
				t.Errorf("calls differ\nbare    %s\nwrapped %s", orders[0], orders[1])
			}
		})
	}
}

// A driver without IsValid loses its connection when a ctx ends a transaction,
// because database/sql cannot know whether it is clean. That the wrapper has
// IsValid must not change this.
func TestRollbackByContext(t *testing.T) {
	for name, want := range map[string]string{
		"full": "connect > begin > rollback > release",
		"bare": "connect > begin > rollback > close",
	} {
		for _, wrapped := range []bool{false, true} {
			inner := New()
			c := shaped{inner, shapes[name]}
			db := openShaped(c, wrapped)
			ctx, cancel := context.WithCancel(bg)
			if _, err := db.BeginTx(ctx, nil); err != nil {
				t.Fatal(err)
			}
			cancel()
			eventually(t, name+": "+want, func() bool { return inner.String() == want })
			eventually(t, "release", func() bool { return db.Stats().InUse == 0 })
			db.Close()
		}
	}
}

func TestWrappedErrors(t *testing.T) {
	inner := New()
	d := Wrap(inner)
	db := pool(t, d)
	inner.OnCall(FailOn(Exec, "", 1, driver.ErrBadConn))
	if _, err := db.Exec("x"); err != nil { // database/sql tries again
		t.Errorf("error %v", err)
	}
	if got, want := d.String(), "connect > exec! > close > connect > exec > release"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What a hook fails does not reach the driver behind, but no transaction and no
// connection is forgotten there.
func TestFailedHooksCleanUpBehind(t *testing.T) {
	boom := errors.New("boom")
	for kind, want := range map[Kind]string{
		Connect: "",
		Begin:   "connect > release > close",
		Exec:    "connect > begin > rollback > release > close",
		Commit:  "connect > begin > exec > rollback > release > close",
		Close:   "connect > begin > exec > commit > release > close",
	} {
		inner := New()
		d := Wrap(inner)
		d.OnCall(FailOn(kind, "", 0, boom))
		db := d.OpenDB()
		_ = transaction(bg, db)
		if err := db.Close(); kind == Close != errors.Is(err, boom) {
			t.Errorf("%s: Close: %v", kind, err)
		}
		if got := inner.String(); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", kind, got, want)
		}
		if d.Open() != 0 || inner.Open() != 0 {
			t.Errorf("%s: %d and %d connections left open", kind, d.Open(), inner.Open())
		}
	}
}

func TestRawReachesTheConnectionBehind(t *testing.T) {
	db := pool(t, Wrap(shaped{New(), shapes["bare"]}))
	c, err := db.Conn(bg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Raw(func(dc any) error {
		inner := dc.(interface{ Unwrap() driver.Conn }).Unwrap()
		if _, ok := inner.(bareConn); !ok {
			t.Errorf("got a %T", inner)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

type openDriver struct {
	d   *Driver
	dsn *string
}

func (o openDriver) Open(dsn string) (driver.Conn, error) {
	*o.dsn = dsn
	return o.d.Connect(bg)
}

type openConnectorDriver struct {
	openDriver
	err error
}

func (o openConnectorDriver) OpenConnector(dsn string) (driver.Connector, error) {
	*o.dsn = dsn
	return o.d, o.err
}

func TestWrapDriver(t *testing.T) {
	inner, dsn := New(), ""
	bad := errors.New("bad dsn")
	for name, test := range map[string]struct {
		driver driver.Driver
		err    error
	}{
		"open":          {openDriver{inner, &dsn}, nil},
		"connector":     {openConnectorDriver{openDriver{inner, &dsn}, nil}, nil},
		"bad connector": {openConnectorDriver{openDriver{inner, &dsn}, bad}, bad},
	} {
		dsn = ""
		d := WrapDriver(test.driver, "the dsn")
		db := pool(t, d)
		if err := db.Ping(); !errors.Is(err, test.err) {
			t.Errorf("%s: error %v; want %v", name, err, test.err)
		}
		if dsn != "the dsn" {
			t.Errorf("%s: opened %q", name, dsn)
		}
		if test.err != nil && d.String() != "connect!" {
			t.Errorf("%s: got %s", name, d)
		}
		if db.Driver() == nil {
			t.Errorf("%s: no driver", name)
		}
	}
	if New().Server() == nil || Wrap(inner).Server() != nil {
		t.Error("a server belongs to the fake backend, and only to that")
	}
}
