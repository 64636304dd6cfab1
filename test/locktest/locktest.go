// Package locktest is what tests of locks on real servers share.
//
//   - [Nothing] and [None] are callbacks, [HasRows] is an UpToDate, and [Waits] are the
//     calls that wait for a key.
//   - [Beginning], [Lasting] and [AwaitReport] tell how far a wait is, and [EndWait] ends
//     one.
//   - [Outlives] shows that a lease outlives a limit.
//   - [Holders] and [Terminate] find the sessions that have a key, and end them.
//   - [Pool] and [WantStep] check what a call leaves behind, and its error.
package locktest

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/sqltest"
)

// Nothing is the callback of a lock that does nothing.
func Nothing(context.Context, *sql.Tx) error { return nil }

// None is the callback of a lease that does nothing.
func None(context.Context) error { return nil }

// HasRows is an UpToDate that asks without a query, which would be the driver's prepared
// statement, and the pooler's trouble.
func HasRows(question string) func(ctx context.Context, db *sql.DB) (bool, error) {
	return func(ctx context.Context, db *sql.DB) (bool, error) {
		res, err := db.ExecContext(ctx, question)
		if err != nil {
			return false, err
		}
		n, err := res.RowsAffected()
		return n > 0, err
	}
}

// Waits are the calls that wait for a key.
var Waits = map[string]func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error{
	"WithXactLock": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
		return l.WithXactLock(ctx, db, key, Nothing)
	},
	"Hold": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
		return l.Hold(ctx, db, key, None)
	},
}

// Beginning is a locker that says when it begins to wait. Whether it then stands in the
// server's queue, or asks now and then, is its own affair.
func Beginning() (advisorylock.Locker, <-chan struct{}) {
	begun := make(chan struct{}, 100)
	return advisorylock.Locker{Trace: &locktrace.Trace{Start: func(ctx context.Context, e locktrace.Event) context.Context {
		if e.Step == locktrace.Lock {
			begun <- struct{}{}
		}
		return ctx
	}}}, begun
}

// Lasting adds to l a channel that gets the reports of its waits, of which the first
// comes after a second.
func Lasting(l advisorylock.Locker) (advisorylock.Locker, <-chan locktrace.Wait) {
	lasting := make(chan locktrace.Wait, 100)
	if l.Trace == nil {
		l.Trace = &locktrace.Trace{}
	}
	l.Trace.Waiting = func(_ context.Context, w locktrace.Wait) { lasting <- w }
	return l, lasting
}

// AwaitReport waits for the report of a wait, which must not end before.
func AwaitReport(t testing.TB, lasting <-chan locktrace.Wait, returned <-chan error) (w locktrace.Wait) {
	t.Helper()
	select {
	case w = <-lasting:
	case err := <-returned:
		t.Fatalf("the wait ended while the lock was held: %v", err)
	case <-t.Context().Done():
		t.Fatal("hangs")
	}
	return w
}

// EndWait ends the context of a wait, with a cause, once begun has brought something,
// and returns the error of the wait: one that names a holder, if one of ten does, since
// the look at the holder is bounded in time, which a busy machine may need.
func EndWait[T any](ctx context.Context, cause error, begun <-chan T, wait func(ctx context.Context) error) (err error) {
	for range 10 {
		waiting, cancel := context.WithCancelCause(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			select {
			case <-begun:
				cancel(cause)
			case <-waiting.Done():
			}
		}()
		err = wait(waiting)
		cancel(nil)
		<-watched
		var with *advisorylock.WaitError
		if errors.As(err, &with) && len(with.Holders) > 0 {
			break
		}
	}
	return err
}

// Outlives checks that the lease of a locker outlives what ends an idle transaction
// after a limit. A machine that stalls for that long loses the lease rightly, and gets
// another try with a longer limit.
func Outlives(t testing.TB, key advisorylock.Key, least time.Duration, with func(limit time.Duration) (advisorylock.Locker, *sql.DB)) {
	t.Helper()
	var err error
	for limit := least; limit < 20*least; limit *= 2 {
		l, db := with(limit)
		if err = HoldFor(t.Context(), l, db, key, limit+limit/2); err == nil {
			return
		}
	}
	t.Errorf("got %v; want the lease kept by its heartbeats", err)
}

// HoldFor holds key for so long, and returns an error if it is lost before.
func HoldFor(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key, long time.Duration) error {
	return l.Hold(ctx, db, key, func(ctx context.Context) error {
		select {
		case <-time.After(long):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// Holders are the sessions that have key, as seen through db.
func Holders(t testing.TB, db *sql.DB, key advisorylock.Key) (holders []advisorylock.Session) {
	t.Helper()
	all, err := advisorylock.Sessions(t.Context(), db, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Granted {
			holders = append(holders, s)
		}
	}
	return holders
}

// Terminate ends the sessions that have key, waits until they are gone, and returns how
// many there were: none, if a machine was so busy that the lease is lost already.
func Terminate(t testing.TB, db *sql.DB, key advisorylock.Key) int {
	t.Helper()
	holders := Holders(t, db, key)
	for _, s := range holders {
		sqltest.Exec(t, db, s.TerminateSQL())
		await.True(t, "the holder's session to end", func() bool {
			return sqltest.Ask[int](t, db, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1", s.PID) == 0
		})
	}
	return len(holders)
}

// Pool opens a pool that stands for one process. No connection may be in use when the
// test ends.
func Pool(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db := sqltest.Open(t, driver, dsn)
	t.Cleanup(func() {
		await.True(t, "all connections to be back in the pool", func() bool { return db.Stats().InUse == 0 })
	})
	return db
}

// WantStep checks that err is a failure of a step.
func WantStep(t testing.TB, err error, want locktrace.Step) {
	t.Helper()
	var failed *locktrace.StepError
	if !errors.As(err, &failed) || failed.Step != want {
		t.Errorf("got %v; want a StepError of %q", err, want)
	}
}
