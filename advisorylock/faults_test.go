//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// One fault of each kind in each driver call of each public function. What is
// asked for afterwards is the same for all: the function came back in time, its
// callback ran once at most and only under the lock, a nil says that it ran, an
// error says where it failed, and nothing is left that the next call would find
// in its way.

const (
	faultCtx  = 3 * time.Second        // of the call that meets the fault
	faultWork = 700 * time.Millisecond // of its callback: longer than a heartbeat's interval
	faultWait = 900 * time.Millisecond // for another process, first
	faultTTL  = 1500 * time.Millisecond
)

// faultyCall is what a fault happens in.
type faultyCall struct {
	d      *recdriver.Driver
	parent context.Context // of the function that is tested
	heal   chan struct{}   // closed when that has come back
}

var errInjected = errors.New("injected")

// driverFaults are what may become of one call. They run before it; a nil lets
// it go on.
var driverFaults = map[string]func(f *faultyCall, ctx context.Context, c *recdriver.Call) error{
	"server error": func(*faultyCall, context.Context, *recdriver.Call) error {
		return recdriver.SQLError{Code: "58030", Message: "could not read block 7"}
	},
	"bad connection": func(*faultyCall, context.Context, *recdriver.Call) error { return driver.ErrBadConn },
	"answer lost": func(*faultyCall, context.Context, *recdriver.Call) error {
		return recdriver.After(driver.ErrBadConn)
	},
	"unknown error, done": func(*faultyCall, context.Context, *recdriver.Call) error {
		return recdriver.After(errInjected)
	},
	"terminated": func(f *faultyCall, _ context.Context, c *recdriver.Call) error {
		f.d.Kill(c.Conn)
		return nil
	},
	"no connection": func(*faultyCall, context.Context, *recdriver.Call) error {
		return errFull
	},
	"hangs until its context ends": func(f *faultyCall, ctx context.Context, _ *recdriver.Call) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.heal:
			return nil
		}
	},
	"hangs": func(f *faultyCall, _ context.Context, c *recdriver.Call) error {
		if strings.HasPrefix(c.Query, "CREATE SCHEMA") {
			return nil // the rollback behind it waits for a mutex, which stops the clock
		}
		<-f.heal
		return nil
	},
	"succeeds after the context": func(f *faultyCall, _ context.Context, _ *recdriver.Call) error {
		select {
		case <-f.parent.Done():
			time.Sleep(100 * time.Millisecond)
		case <-f.heal:
		}
		return nil
	},
}

// scene is one way to call a function.
type scene struct {
	name      string
	contended bool             // another process has the lock at first
	alone     bool             // works on a pool of one
	lock      advisorylock.Key // is held while the callback runs, if it is not 0
	works     bool             // has calls of its own, whose errors are its own
	call      func(ctx context.Context, db *sql.DB, work func(ctx context.Context) error) error
}

func scenes() []scene {
	var all []scene
	for _, f := range forms {
		for _, contended := range []bool{false, true} {
			all = append(all, scene{
				name:      fmt.Sprintf("%s,contended=%t", f.op, contended),
				contended: contended,
				alone:     !f.lease,
				lock:      key,
				call: func(ctx context.Context, db *sql.DB, work func(ctx context.Context) error) error {
					return f.call(advisorylock.Locker{TTL: faultTTL}, ctx, db, key, work)
				},
			})
		}
	}
	all = append(all, scene{name: "Fence", lock: key, works: true, call: func(ctx context.Context, db *sql.DB, work func(ctx context.Context) error) error {
		return advisorylock.Locker{TTL: faultTTL}.Hold(ctx, db, key, func(ctx context.Context) error {
			return heed(ctx, func() error { return inFence(ctx, db, work) })
		})
	}})
	for name, g := range map[string]schemaguard.Guard{
		"Ensure":       {TTL: faultTTL},
		"SkipIfExists": {TTL: faultTTL, SkipIfExists: true},
		"Migrate":      {TTL: faultTTL, Serialize: true},
		"UpToDate": {TTL: faultTTL, UpToDate: func(ctx context.Context, db *sql.DB) (bool, error) {
			return false, heed(ctx, func() error {
				_, err := db.ExecContext(ctx, "SELECT version")
				return err
			})
		}},
	} {
		var lock advisorylock.Key
		if g.Serialize || g.UpToDate != nil {
			lock = schemaguard.MigrateKey(schemaguard.KeyFor("app"))
		}
		all = append(all, scene{name: name, lock: lock, call: func(ctx context.Context, db *sql.DB, work func(ctx context.Context) error) error {
			return g.Ensure(ctx, db, "app", func(ctx context.Context, _ *sql.DB) error { return work(ctx) })
		}})
	}
	return all
}

// heed does not wait for a driver any longer than ctx lasts: what a callback does
// with its own calls is its own affair.
func heed(ctx context.Context, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inFence works in a transaction that the end of ctx finds open.
func inFence(ctx context.Context, db *sql.DB, work func(ctx context.Context) error) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // ends a transaction that failed
	if err := advisorylock.Fence(ctx, tx); err != nil {
		return err
	}
	if err := work(ctx); err != nil {
		return err
	}
	return tx.Commit()
}

func TestFaultInEveryDriverCall(t *testing.T) {
	t.Parallel()
	cases := 0
	for _, s := range scenes() {
		for manner, mode := range modes {
			for _, pool := range []int{0, 1, 2, 3} {
				if pool == 1 && !s.alone {
					continue
				}
				calls := 0
				bubble(t, mode, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
					db.SetMaxOpenConns(pool)
					calls = meetFault(t, s, d, db, 0, nil)
				})
				for k := 1; k <= calls; k++ {
					for kind, fault := range driverFaults {
						cases++
						t.Run(fmt.Sprintf("%s/%s/pool %d/call %d %s", s.name, manner, pool, k, kind), func(t *testing.T) {
							var d *recdriver.Driver
							bubble(t, mode, func(t *testing.T, driver *recdriver.Driver, db *sql.DB) {
								d = driver
								db.SetMaxOpenConns(pool)
								meetFault(t, s, d, db, k, fault)
							})
							if t.Failed() {
								t.Log(d)
							}
						})
					}
				}
			}
		}
	}
	t.Logf("%d cases", cases)
	if cases < 9_000 {
		t.Errorf("only %d cases; want 9 000", cases)
	}
}

// meetFault calls s with a fault in its kth driver call, checks what came of
// it, and returns how many calls there were.
func meetFault(t *testing.T, s scene, d *recdriver.Driver, db *sql.DB, k int, fault func(*faultyCall, context.Context, *recdriver.Call) error) (calls int) {
	t.Helper()
	if s.contended {
		time.AfterFunc(faultWait, lockElsewhere(t, d, key))
	}
	ctx, cancel := context.WithTimeout(t.Context(), faultCtx)
	defer cancel()
	f := &faultyCall{d: d, parent: ctx, heal: make(chan struct{})}
	var n atomic.Int64 // a call that hangs may still be there when the next one comes
	d.OnCall(func(ctx context.Context, c *recdriver.Call) error {
		if n.Add(1) == int64(k) {
			return fault(f, ctx, c)
		}
		return nil
	})

	var entered, finished atomic.Int64 // a callback that heeds its context may be left running
	var lost atomic.Bool
	begun := time.Now()
	holds := func() bool { return s.lock == 0 || d.Server().Held()[int64(s.lock)] > 0 }
	work := func(in context.Context) error {
		if times := entered.Add(1); times > 1 {
			t.Errorf("the callback ran %d times", times)
		}
		if ctx.Err() != nil {
			t.Error("the callback was called after the end of the context")
		}
		if !holds() || s.contended && time.Since(begun) < faultWait {
			t.Error("the callback was called without the lock")
		}
		select {
		case <-time.After(faultWork):
			finished.Add(1)
			lost.Store(!holds())
			return nil
		case <-in.Done():
			return context.Cause(in)
		}
	}
	got := run(func() error { return s.call(ctx, db, work) })
	took := time.Since(begun)
	calls = len(d.Calls())
	close(f.heal)
	d.OnCall(nil)
	time.Sleep(time.Second) // for what was left behind by a hang

	if limit := faultCtx + 6*time.Second; took > limit {
		t.Errorf("came back after %v; want it by %v", took, limit)
	}
	var failed *locktrace.StepError
	switch err := got.err; {
	case got.panicked != nil:
		t.Errorf("panicked with %v", got.panicked)
	case got.exited:
		t.Error("ended its goroutine")
	case err == nil:
		if finished.Load() != 1 {
			t.Errorf("nil, and the callback finished %d times", finished.Load())
		}
		if lost.Load() {
			t.Error("nil, and the lock was gone before the callback had finished")
		}
	case !errors.As(err, &failed) && entered.Load() == 0 && !s.works:
		t.Errorf("the error does not say where: %v", err)
	}

	// The next one.
	freed := time.Now()
	err := advisorylock.WithXactLock(t.Context(), db, key, nothing)
	if took := time.Since(freed); err != nil || took > faultTTL+2*time.Second {
		t.Errorf("after %v, the next call: %v after %v", got, err, took)
	}
	return calls
}
