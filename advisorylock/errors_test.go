//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

func TestWaitErrorText(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 500)
	for _, tt := range []struct {
		name string
		err  advisorylock.WaitError
		want string
	}{
		{
			"nobody known",
			advisorylock.WaitError{Key: 42, Waited: 1234567 * time.Microsecond, Err: context.DeadlineExceeded},
			"context deadline exceeded after waiting 1.235s",
		},
		{
			"one holder, whose last statement is the lock's own",
			advisorylock.WaitError{Key: -7, Waited: time.Minute, Err: context.Canceled, Holders: []advisorylock.Session{blocker}},
			"context canceled after waiting 1m0s; held by pid 4711 (deploy, user app, from 10.0.0.7:50123, idle in transaction, since 2025-03-09T12:00:00Z)" +
				"; to end it: SELECT pg_catalog.pg_terminate_backend(4711)",
		},
		{
			"sessions that the role may not see",
			advisorylock.WaitError{Key: 1, Err: context.Canceled, Holders: []advisorylock.Session{{PID: 7}, {PID: 8}}},
			"context canceled after waiting 0s; held by pid 7; by pid 8" +
				"; to end them: SELECT pg_catalog.pg_terminate_backend(7), pg_catalog.pg_terminate_backend(8)",
		},
		{
			"more than anybody wants to read of",
			advisorylock.WaitError{Key: 1, Err: context.Canceled, Holders: []advisorylock.Session{
				{PID: 1}, {PID: 2, Query: "VACUUM"}, {PID: 3}, {PID: 4}, {PID: 5}, {PID: 6}, {PID: 7}, {PID: 8},
			}},
			`context canceled after waiting 0s; held by pid 1; by pid 2, last statement "VACUUM"; by pid 3; and by 5 more` +
				"; to end them: SELECT pg_catalog.pg_terminate_backend(1), pg_catalog.pg_terminate_backend(2), pg_catalog.pg_terminate_backend(3)",
		},
		{
			"a prepared transaction, which has no session",
			advisorylock.WaitError{Key: 1, Err: context.Canceled, Holders: []advisorylock.Session{{State: "prepared transaction", Granted: true}}},
			"context canceled after waiting 0s; held by pid 0 (prepared transaction)",
		},
		{
			"long statement with line breaks",
			advisorylock.WaitError{Key: 1, Err: context.Canceled, Holders: []advisorylock.Session{{PID: 7, Query: "SELECT\n" + long}}},
			`context canceled after waiting 0s; held by pid 7, last statement "SELECT\n` + long[:113] + `"; to end it: SELECT pg_catalog.pg_terminate_backend(7)`,
		},
		{
			"heartbeat",
			advisorylock.WaitError{Key: 1, Err: context.Canceled, Holders: []advisorylock.Session{{PID: 7, Query: "SELECT /* bootlock: app */ 1"}}},
			"context canceled after waiting 0s; held by pid 7; to end it: SELECT pg_catalog.pg_terminate_backend(7)",
		},
		{
			"a lock statement by hand",
			advisorylock.WaitError{Key: 1, Err: context.Canceled, Holders: []advisorylock.Session{{PID: 7, Query: "SELECT pg_advisory_lock(1)"}}},
			`context canceled after waiting 0s; held by pid 7, last statement "SELECT pg_advisory_lock(1)"; to end it: SELECT pg_catalog.pg_terminate_backend(7)`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			checkSame(t, "text", tt.err.Error(), tt.want)
			checkIs(t, &tt.err, tt.err.Err)
		})
	}
}

// Not every pooler and not every server that speaks the protocol has advisory
// locks that last for a transaction.
func TestUnsupported(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		kind  recdriver.Kind
		err   error
		step  locktrace.Step
		calls string
	}{
		{
			"no such function", recdriver.Exec,
			recdriver.SQLError{Code: "42883", Message: "function pg_catalog.pg_advisory_xact_lock(integer) does not exist"},
			locktrace.Lock, "connect > begin > exec! > rollback > release",
		},
		{
			// Not a stale connection, though its code says so: another one would not do better.
			"pooler in statement mode", recdriver.Begin,
			recdriver.SQLError{Code: "08P01", Message: "transaction blocks not allowed in statement pooling mode"},
			locktrace.Begin, "connect > begin! > release",
		},
		{
			// lib/pq hides the reason of every FATAL. Statements work, and BEGIN breaks each time.
			"pooler in statement mode, lib/pq", recdriver.Begin, driver.ErrBadConn, locktrace.Begin,
			strings.Repeat("connect > begin! > close > ", 3) + strings.TrimSuffix(strings.Repeat("connect > exec > begin! > close > ", 3), " > "),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				d.OnCall(recdriver.FailOn(tt.kind, "", 0, tt.err))
				err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn)
				checkIs(t, err, advisorylock.ErrUnsupported, tt.err)
				checkStep(t, err, "advisorylock."+f.op, "42", tt.step, "")
				checkSame(t, "calls", d.String(), tt.calls)
			})
		})
	}
}

// The end of a context must be found however the driver words it, and what the
// driver said must stay.
func TestEndOfContextText(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"plain":  "context canceled: shutting down (ERROR: canceling statement due to user request (SQLSTATE 57014)) after waiting 100ms",
		"pgx":    "context canceled: shutting down after waiting 100ms",
		"lib/pq": "context canceled: shutting down (ERROR: canceling statement due to user request (SQLSTATE 57014)) after waiting 100ms",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, modes[name], func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				lockElsewhere(t, d, key)
				err, _ := cancelDuring(t, d, recdriver.Exec, func(ctx context.Context) error {
					return advisorylock.WithXactLock(ctx, db, key, unreachable(t))
				})
				checkSame(t, "text", err.Error(), "advisorylock.WithXactLock 42: lock: "+want)
			})
		})
	}
}

// A pool that is full is not a lock that is taken.
func TestNoConnectionIsNoWaitError(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, _ *recdriver.Driver, db *sql.DB) {
		db.SetMaxOpenConns(2)
		for range 2 {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errShutdown)
		defer cancel()
		begun := time.Now()
		err := f.call(advisorylock.Locker{}, ctx, db, key, noFn)
		checkSame(t, "time taken", time.Since(begun), time.Second)
		checkIs(t, err, context.DeadlineExceeded, errShutdown)
		checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Connect, "")
		if errors.As(err, new(*advisorylock.WaitError)) {
			t.Errorf("got %v; want no WaitError", err)
		}
	})
}

// A driver that cannot read its connection string repeats it.
func TestNoPasswordInTheErrorOfConnect(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		told := errors.New("cannot parse `postgres://app:s3cret@host:port/app`: failed to parse as URL (invalid port)")
		d.OnCall(recdriver.FailOn(recdriver.Connect, "", 0, told))
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn)
		if !errors.Is(err, told) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got %v; want the driver's error without the password", err)
		}
	})
}
