//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// Nearly every test runs in a bubble of its own: on a fake server, and on a
// clock that moves only when every goroutine waits. A second costs nothing
// there, and durations are exact. One thing stops the clock: a goroutine that
// waits for a mutex, as those of database/sql do behind a statement that does
// not come back.

const key = advisorylock.Key(42)

// modes are the manners that a driver can have.
var modes = map[string]recdriver.Mode{"plain": recdriver.Plain, "pgx": recdriver.PGX, "lib/pq": recdriver.LibPQ}

// bubble runs test with one pool on a new server, and checks that it leaves
// nothing behind.
func bubble(t *testing.T, mode recdriver.Mode, test func(t *testing.T, d *recdriver.Driver, db *sql.DB)) {
	t.Helper()
	watchdog := time.AfterFunc(time.Minute, func() {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		panic(t.Name() + ": the clock of the bubble stands still")
	})
	defer watchdog.Stop()
	synctest.Test(t, func(t *testing.T) {
		d := recdriver.NewServer().Driver(mode)
		db := d.OpenDB()
		t.Cleanup(func() { nothingLeft(t, d, db) })
		test(t, d, db)
	})
}

// eachMode runs test in a bubble for each kind of driver.
func eachMode(t *testing.T, test func(t *testing.T, d *recdriver.Driver, db *sql.DB)) {
	t.Helper()
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, mode, test)
		})
	}
}

// nothingLeft closes db and checks that no lock, no connection and no entry in
// the registry outlives the test. Goroutines are synctest's affair.
func nothingLeft(t *testing.T, d *recdriver.Driver, db *sql.DB) {
	t.Helper()
	synctest.Wait()
	if held, waiting := d.Server().Held(), d.Server().Waiting(); len(held)+len(waiting) > 0 {
		t.Errorf("left on the server: held %v, waited for %v", held, waiting)
	}
	if n := db.Stats().InUse; n > 0 {
		t.Errorf("%d connections never came back to the pool", n)
	}
	if advisorylock.Registered(db) {
		t.Error("the registry still has the pool")
	}
	if err := db.Close(); err != nil {
		t.Errorf("closing the pool: %v", err)
	}
	synctest.Wait()
	if n := d.Open(); n > 0 {
		t.Errorf("%d connections still open after the pool was closed", n)
	}
}

// elsewhere is a pool of another process on the same server.
func elsewhere(t *testing.T, d *recdriver.Driver) *sql.DB {
	t.Helper()
	db := d.Server().Driver(recdriver.Plain).OpenDB()
	t.Cleanup(func() { db.Close() })
	return db
}

// lockElsewhere takes key as another process does. What it returns gives it
// back.
func lockElsewhere(t *testing.T, d *recdriver.Driver, key advisorylock.Key) (free func()) {
	t.Helper()
	tx, err := elsewhere(t, d).Begin()
	if err == nil {
		_, err = tx.Exec(fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", key))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return func() {
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
	}
}

// nothing and noFn are callbacks that succeed.
func nothing(context.Context, *sql.Tx) error { return nil }
func noFn(context.Context) error             { return nil }

// unreachable and uncalled are callbacks that must not be called.
func unreachable(t *testing.T) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, _ *sql.Tx) error { return uncalled(t)(ctx) }
}

func uncalled(t *testing.T) func(context.Context) error {
	return func(context.Context) error {
		t.Error("the function was called")
		return nil
	}
}

// form is one of the four ways to take a lock, with the callback that all of
// them can have.
type form struct {
	op         string
	try, lease bool
	call       func(l advisorylock.Locker, ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error
}

var forms = []form{
	{op: "WithXactLock", call: func(l advisorylock.Locker, ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error {
		return l.WithXactLock(ctx, db, key, func(ctx context.Context, _ *sql.Tx) error { return fn(ctx) })
	}},
	{op: "TryWithXactLock", try: true, call: func(l advisorylock.Locker, ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error {
		return l.TryWithXactLock(ctx, db, key, func(ctx context.Context, _ *sql.Tx) error { return fn(ctx) })
	}},
	{op: "Hold", lease: true, call: advisorylock.Locker.Hold},
	{op: "TryHold", lease: true, try: true, call: advisorylock.Locker.TryHold},
}

var (
	waiters = pick(func(f form) bool { return !f.try })
	tries   = pick(func(f form) bool { return f.try })
	leases  = pick(func(f form) bool { return f.lease })
	xacts   = pick(func(f form) bool { return !f.lease })
)

func pick(which func(form) bool) []form {
	return slices.DeleteFunc(slices.Clone(forms), func(f form) bool { return !which(f) })
}

// each runs test once per form, in a bubble each.
func each(t *testing.T, forms []form, test func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB)) {
	t.Helper()
	for _, f := range forms {
		t.Run(f.op, func(t *testing.T) {
			t.Parallel()
			bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) { test(t, f, d, db) })
		})
	}
}

// eachInEveryMode is each for every kind of driver.
func eachInEveryMode(t *testing.T, forms []form, test func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB)) {
	t.Helper()
	for _, f := range forms {
		t.Run(f.op, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) { test(t, f, d, db) })
		})
	}
}

// checkSame checks one thing that a test saw.
func checkSame[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v; want %v", what, got, want)
	}
}

// checkIs checks what is in the chain of err.
func checkIs(t *testing.T, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("got %v; want %v in its chain", err, w)
		}
	}
}

// outcome is how a function came back.
type outcome struct {
	err      error
	panicked any
	exited   bool // by runtime.Goexit
}

// run calls f on a goroutine of its own, so that it may end that, and waits.
func run(f func() error) outcome {
	got := outcome{exited: true}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				got = outcome{panicked: v}
			}
		}()
		got = outcome{err: f()}
	}()
	<-done
	return got
}
