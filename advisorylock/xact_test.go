//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

const lockSQL = "SELECT pg_catalog.pg_advisory_xact_lock(42)" + fromFree

const fromFree = " FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_is_in_recovery() THEN 2 WHEN pg_catalog.pg_try_advisory_xact_lock(42) THEN 1 END)"

// limited is lockSQL with a limit for an idle transaction.
func limited(ms string) string {
	return "SELECT pg_catalog.pg_advisory_xact_lock(42), pg_catalog.set_config('idle_in_transaction_session_timeout', '" + ms + "ms', true)" + fromFree
}

// Users freeze these calls in their own tests, with sqlmock. The statement goes
// out without arguments, since with the key as $1 a snapshot stays behind in the
// idle transaction, and every CREATE INDEX CONCURRENTLY waits for it.
func TestXactCalls(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		for _, want := range []string{
			"connect > begin > exec > exec > commit > release",
			"take > begin > exec > exec > commit > release", // the connection went back to the pool
		} {
			d.Reset()
			err := advisorylock.WithXactLock(t.Context(), db, key, func(ctx context.Context, tx *sql.Tx) error {
				checkSame(t, "holders while the function runs", d.Server().Held()[int64(key)], 1)
				_, err := tx.ExecContext(ctx, "CREATE TABLE t ()")
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := d.String(); got != want {
				t.Fatalf("got %s; want %s", got, want)
			}
			begin, lock, work := d.Calls()[1], d.Calls()[2], d.Calls()[3]
			checkSame(t, "connection that the function works on, which has the lock", work.Conn, 1)
			if begin.Isolation != sql.LevelReadCommitted || begin.ReadOnly {
				t.Errorf("got BEGIN %v, read-only %t; want READ COMMITTED, whatever the database's default", begin.Isolation, begin.ReadOnly)
			}
			if lock.Query != lockSQL || len(lock.Args) != 0 {
				t.Errorf("got %q with %v; want %q without arguments", lock.Query, lock.Args, lockSQL)
			}
		}
	})
}

func TestXactLockText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		locker advisorylock.Locker
		key    advisorylock.Key
		want   string
	}{
		{"smallest key", advisorylock.Locker{}, math.MinInt64, strings.ReplaceAll(lockSQL, "42", "-9223372036854775808")},
		{"named", advisorylock.Locker{Name: "app"}, 42, lockSQL},
		{"TTL", advisorylock.Locker{TTL: 90 * time.Second}, 42, limited("90000")},
		{"TTL below the floor", advisorylock.Locker{TTL: time.Millisecond}, 42, limited("1000")},
		{"TTL beyond the server's range", advisorylock.Locker{TTL: math.MaxInt64}, 42, limited("2147483647")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				err := tt.locker.WithXactLock(t.Context(), db, tt.key, func(context.Context, *sql.Tx) error {
					time.Sleep(time.Second - time.Millisecond)
					return nil
				})
				if got := d.String(); err != nil || got != "connect > begin > exec > commit > release" {
					t.Fatalf("got %v, %s; want one Exec, and no heartbeats", err, got)
				}
				checkSame(t, "statement", d.Calls()[2].Query, tt.want)
			})
		})
	}
}

// On failure rollback and release take the place of the steps still due; a
// failed commit is not followed by a rollback, and a connection in doubt never
// goes back to the pool.
func TestFailureAtEachStep(t *testing.T) {
	t.Parallel()
	boom := recdriver.SQLError{Code: "53100", Message: "disk full"}
	for _, tt := range []struct {
		name   string
		kind   recdriver.Kind
		fnErr  error
		step   locktrace.Step // of the error, if it has one
		text   string
		steps  string
		driver string
	}{
		{
			name: "connect", kind: recdriver.Connect, step: locktrace.Connect, text: "connect: ERROR: disk full (SQLSTATE 53100)",
			steps: "connect!", driver: "connect!",
		},
		{
			name: "begin", kind: recdriver.Begin, step: locktrace.Begin, text: "begin: ERROR: disk full (SQLSTATE 53100)",
			steps: "connect > begin! > release", driver: "connect > begin! > release",
		},
		{
			name: "lock", kind: recdriver.Exec, step: locktrace.Lock, text: "lock: ERROR: disk full (SQLSTATE 53100)",
			steps: "connect > begin > lock! > rollback > release", driver: "connect > begin > exec! > rollback > release",
		},
		{
			name: "function", fnErr: boom,
			steps: "connect > begin > lock > rollback > release", driver: "connect > begin > exec > rollback > release",
		},
		{
			name: "commit", kind: recdriver.Commit, step: locktrace.Commit, text: "commit: nothing was committed: ERROR: disk full (SQLSTATE 53100)",
			steps: "connect > begin > lock > commit! > release", driver: "connect > begin > exec > commit! > close",
		},
		{
			name: "rollback", kind: recdriver.Rollback, fnErr: boom,
			steps: "connect > begin > lock > rollback! > release", driver: "connect > begin > exec > rollback! > close",
		},
		{
			name: "release", kind: recdriver.Release,
			steps: "connect > begin > lock > commit > release", driver: "connect > begin > exec > commit > release! > close",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				if tt.kind != "" {
					d.OnCall(recdriver.FailOn(tt.kind, "", 1, boom))
				}
				var r locktrace.Recorder
				err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, func(context.Context) error { return tt.fnErr })
				checkSame(t, "steps", r.String(), tt.steps)
				checkSame(t, "calls", d.String(), tt.driver)
				if f.lease && tt.step == locktrace.Commit {
					// The function has done its work, and nobody knows whether under the lock.
					checkIs(t, err, advisorylock.ErrLost, boom)
					return
				}
				checkStep(t, err, "advisorylock."+f.op, "42", tt.step, tt.text)
				if tt.step == "" && err != tt.fnErr { //nolint:errorlint // untouched
					t.Errorf("got %v; want the function's own error, %v", err, tt.fnErr)
				}
				if as := (recdriver.SQLError{}); tt.step != "" && (!errors.As(err, &as) || as != boom) {
					t.Errorf("the driver's error is not in the chain of %v", err)
				}
			})
		})
	}
}

// checkStep checks that err is a StepError, or is none if step is empty.
func checkStep(t *testing.T, err error, op, name string, step locktrace.Step, text string) {
	t.Helper()
	var failed *locktrace.StepError
	if !errors.As(err, &failed) {
		failed = &locktrace.StepError{}
	}
	if failed.Step != step {
		t.Errorf("got %v, at step %q; want step %q", err, failed.Step, step)
		return
	}
	if step == "" {
		return
	}
	if failed.Op != op || failed.Name != name {
		t.Errorf("got operation %q on %q; want %q on %q", failed.Op, failed.Name, op, name)
	}
	if want := op + " " + name + ": " + text; text != "" && err.Error() != want {
		t.Errorf("got  %v\nwant %v", err, want)
	}
}

// However the function ends, the lock is free and the connection, which is in no
// doubt, is in the pool afterwards.
func TestHowFnEnds(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		fn   func() error
		want outcome
	}{
		{"error", func() error { return boom }, outcome{err: boom}},
		// So does a broken connection show, but this session answers the rollback.
		{"error of a file", func() error { return io.ErrUnexpectedEOF }, outcome{err: io.ErrUnexpectedEOF}},
		{"panic", func() error { panic(boom) }, outcome{panicked: boom}},
		{"Goexit", func() error { runtime.Goexit(); return nil }, outcome{exited: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				var r locktrace.Recorder
				got := run(func() error {
					return f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, func(context.Context) error { return tt.fn() })
				})
				if got != tt.want {
					t.Errorf("got %+v; want %+v", got, tt.want)
				}
				checkSame(t, "calls", d.String(), "connect > begin > exec > rollback > release")
				checkSame(t, "steps", r.String(), "connect > begin > lock > rollback > release")
				checkSame(t, "locks on the server", len(d.Server().Held()), 0)
				checkSame(t, "connections in the pool", db.Stats().Idle, 1)
			})
		})
	}
}

// With BeginTx(ctx), database/sql would roll back behind the function's back as
// soon as ctx ends, and another process would get the lock while the function
// still runs.
func TestCancelledContextDoesNotFreeTheLockUnderFn(t *testing.T) {
	t.Parallel()
	eachInEveryMode(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		other := elsewhere(t, d)
		err := f.call(advisorylock.Locker{TTL: time.Minute}, ctx, db, key, func(ctx context.Context) error {
			cancel(errShutdown)
			<-ctx.Done()
			checkIs(t, context.Cause(ctx), errShutdown)
			time.Sleep(50 * time.Second) // the function winds up
			checkIs(t, advisorylock.TryWithXactLock(context.Background(), other, key, unreachable(t)), advisorylock.ErrNotAcquired)
			return ctx.Err()
		})
		checkIs(t, err, context.Canceled, errShutdown)
		checkSame(t, "locks on the server", len(d.Server().Held()), 0)
	})
}

func TestEndOfContextPreventsTheCommit(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		ctx, cancel := context.WithCancelCause(t.Context())
		var r locktrace.Recorder
		err := advisorylock.Locker{Trace: r.Trace()}.WithXactLock(ctx, db, key, func(context.Context, *sql.Tx) error {
			cancel(errShutdown)
			return nil
		})
		checkEnded(t, err, "WithXactLock", locktrace.Commit)
		checkSame(t, "steps", r.String(), "connect > begin > lock > rollback > release")
		checkSame(t, "calls", d.String(), "connect > begin > exec > rollback > release")
	})
}

func TestFnEndsTheTransactionItself(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*sql.Tx) error{"commit": (*sql.Tx).Commit, "rollback": (*sql.Tx).Rollback} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				err := advisorylock.WithXactLock(t.Context(), db, key, func(_ context.Context, tx *sql.Tx) error { return end(tx) })
				checkIs(t, err, sql.ErrTxDone)
				checkStep(t, err, "advisorylock.WithXactLock", "42", locktrace.Commit,
					"commit: the function ended the transaction itself, and with it the lock: sql: transaction has already been committed or rolled back")
				if errors.Is(err, advisorylock.ErrLost) {
					t.Error("got ErrLost, but no session was lost")
				}
				boom := errors.New("boom")
				err = advisorylock.WithXactLock(t.Context(), db, key, func(_ context.Context, tx *sql.Tx) error {
					_ = end(tx)
					return boom
				})
				if err != boom { //nolint:errorlint // untouched
					t.Errorf("got %v; want %v, untouched", err, boom)
				}
			})
		})
	}
}

// pgx says 57P01, lib/pq no more than "driver: bad connection", and neither that
// the lock went with the session.
func TestSessionEndsUnderFn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fn   func(ctx context.Context, tx *sql.Tx) error
	}{
		{"function does not notice", func(context.Context, *sql.Tx) error { return nil }},
		{"function notices", func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "CREATE TABLE t ()")
			return err
		}},
		{"function fails for another reason", func(context.Context, *sql.Tx) error { return errors.New("boom") }},
		{"function has lost a lock of its own", func(context.Context, *sql.Tx) error { return fmt.Errorf("inner: %w", advisorylock.ErrLost) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				var own error
				err := advisorylock.WithXactLock(t.Context(), db, key, func(ctx context.Context, tx *sql.Tx) error {
					checkSame(t, "sessions that were killed", d.Server().Kill(int64(key)), 1)
					own = tt.fn(ctx, tx)
					return own
				})
				checkIs(t, err, advisorylock.ErrLost)
				if own != nil {
					checkIs(t, err, own)
				}
				if errors.Is(own, advisorylock.ErrLost) && err != own { //nolint:errorlint // untouched
					t.Errorf("got %v; want %v, which says so already", err, own)
				}
				if own == nil && !errors.Is(err, driver.ErrBadConn) && !errors.As(err, new(recdriver.SQLError)) {
					t.Errorf("got %v; want the driver's error in its chain", err)
				}
				if n := db.Stats().Idle; n != 0 && d.Open() != 0 {
					if err := db.PingContext(t.Context()); err != nil { // pgx's is found out when it is taken
						t.Errorf("the pool gave out the lost connection: %v", err)
					}
				}
			})
		})
	}
}

// A pool may be full of connections that the server closed long ago. BEGIN is
// the first to notice.
func TestStaleConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		db.SetMaxIdleConns(3)
		fill(t, db, 3)
		d.Reset()
		d.OnCall(func(_ context.Context, c *recdriver.Call) error {
			if c.Kind == recdriver.Begin && c.Conn <= 3 {
				return driver.ErrBadConn
			}
			return nil
		})
		var r locktrace.Recorder
		err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, noFn)
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, "steps", r.String(), "connect > begin > lock > commit > release")
		checkSame(t, "stale connections tried", strings.Count(d.String(), "begin!"), 3)
	})
}

// fill opens n connections and leaves them idle in the pool.
func fill(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	var conns []*sql.Conn
	for range n {
		c, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		c.Close()
	}
}

func TestServerThatIsDownIsNotAskedForEver(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.OnCall(recdriver.FailOn(recdriver.Begin, "", 0, driver.ErrBadConn))
		d.OnCall(recdriver.FailOn(recdriver.Exec, "", 0, driver.ErrBadConn))
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn)
		checkIs(t, err, driver.ErrBadConn)
		checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Begin, "begin: driver: bad connection")
		if n := strings.Count(d.String(), "begin!"); n > 5 {
			t.Errorf("tried %d times; want a handful", n)
		}
	})
}

// A nil that is found out deep inside database/sql tells nobody who was to
// blame.
func TestNilArguments(t *testing.T) {
	t.Parallel()
	db := recdriver.New().OpenDB()
	defer db.Close()
	var none context.Context
	for want, call := range map[string]func() error{
		"advisorylock.WithXactLock: nil function":    func() error { return advisorylock.WithXactLock(t.Context(), db, key, nil) },
		"advisorylock.TryWithXactLock: nil function": func() error { return advisorylock.TryWithXactLock(t.Context(), db, key, nil) },
		"advisorylock.Hold: nil function":            func() error { return advisorylock.Hold(t.Context(), db, key, nil) },
		"advisorylock.TryHold: nil function":         func() error { return advisorylock.TryHold(t.Context(), db, key, nil) },
		"advisorylock.Sessions: nil context":         func() error { _, err := advisorylock.Sessions(none, db, key); return err },
		"advisorylock.Sessions: nil *sql.DB":         func() error { _, err := advisorylock.Sessions(t.Context(), nil, key); return err },
		"advisorylock.Fence: nil context":            func() error { return advisorylock.Fence(none, new(sql.Tx)) },
		"advisorylock.Fence: nil *sql.Tx":            func() error { return advisorylock.Fence(t.Context(), nil) },
	} {
		checkPanic(t, want, call)
	}
	for _, f := range forms {
		checkPanic(t, "advisorylock."+f.op+": nil context", func() error { return f.call(advisorylock.Locker{}, none, db, key, noFn) })
		checkPanic(t, "advisorylock."+f.op+": nil *sql.DB", func() error { return f.call(advisorylock.Locker{}, t.Context(), nil, key, noFn) })
	}
}

func checkPanic(t *testing.T, want string, call func() error) {
	t.Helper()
	if got := run(call); got.panicked != want {
		t.Errorf("got %+v; want the panic %q", got, want)
	}
}
