//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// begin begins a transaction on db that ends with the test.
func begin(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

// The next one does not begin before the fenced transaction has ended, though it
// could have the lock.
func TestFenceKeepsTheNextOneOut(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		next := elsewhere(t, d)
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, func(ctx context.Context) error {
			tx := begin(t, db)
			if err := advisorylock.Fence(ctx, tx); err != nil {
				t.Fatal(err)
			}
			d.Server().Kill(int64(key))
			if err := advisorylock.TryHold(t.Context(), next, key, noFn); !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("got %v beside a fenced transaction; want ErrNotAcquired", err)
			}
			began := make(chan time.Time, 1)
			go func() {
				err := advisorylock.Hold(t.Context(), next, key, func(context.Context) error { began <- time.Now(); return nil })
				if err != nil {
					t.Error(err)
				}
			}()
			time.Sleep(10 * time.Second)
			committed := time.Now()
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
			if at := <-began; at.Before(committed) || at.Sub(committed) > advisorylock.Burst {
				t.Errorf("the next one began %v after the commit; want a burst at most, and no sooner", at.Sub(committed))
			}
			return nil
		})
		checkIs(t, err, advisorylock.ErrLost)
	})
}

// While nobody has told the holder, the server does.
func TestFenceOfALostLease(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		next := elsewhere(t, d)
		var after context.Context
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, func(ctx context.Context) error {
			after = context.WithoutCancel(ctx)
			d.Server().Kill(int64(key))
			check := func(context.Context) error {
				checkIs(t, advisorylock.Fence(after, begin(t, next)), advisorylock.ErrLost)
				return nil
			}
			return errors.Join(check(ctx), advisorylock.Hold(t.Context(), next, key, check))
		})
		checkIs(t, err, advisorylock.ErrLost)

		// After the call nobody needs to be asked.
		tx := begin(t, db)
		d.Reset()
		checkIs(t, advisorylock.Fence(after, tx), advisorylock.ErrLost)
		checkSame(t, "calls", d.String(), "")
	})
}

// A heartbeat that fails tells the holder; from then on nobody is asked either.
func TestFenceKnowsWhatTheHeartbeatDoes(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		_ = advisorylock.Hold(t.Context(), db, key, func(ctx context.Context) error {
			tx := begin(t, db)
			d.Server().Kill(int64(key))
			<-ctx.Done()
			d.Reset()
			checkIs(t, advisorylock.Fence(ctx, tx), advisorylock.ErrLost)
			checkIs(t, advisorylock.Fence(context.WithoutCancel(ctx), tx), advisorylock.ErrLost)
			checkSame(t, "calls", d.String(), "")
			return nil
		})
	})
}

// What says nothing about the lease is not ErrLost.
func TestFenceThatFails(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		broken := errors.New("broken")
		err := advisorylock.Hold(t.Context(), db, key, func(ctx context.Context) error {
			d.OnCall(recdriver.FailOn(recdriver.Exec, "SELECT 1 WHERE", 1, broken))
			if err := advisorylock.Fence(ctx, begin(t, db)); !errors.Is(err, broken) || errors.Is(err, advisorylock.ErrLost) {
				t.Errorf("got %v; want the driver's error, and not ErrLost", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := advisorylock.Fence(t.Context(), begin(t, db)); err == nil || errors.Is(err, advisorylock.ErrLost) {
			t.Errorf("got %v for a context of no Hold; want an error that is not ErrLost", err)
		}
	})
}

// The context bounds the call with a driver that does not heed it.
func TestFenceHeedsItsContext(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.LibPQ, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		network := make(chan struct{})
		err := advisorylock.Hold(t.Context(), db, key, func(ctx context.Context) error {
			tx := begin(t, db)
			d.OnCall(recdriver.HangOn(recdriver.Exec, "SELECT 1 WHERE", network))
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			began := time.Now()
			checkIs(t, advisorylock.Fence(short, tx), context.DeadlineExceeded)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("returned after %v; want 1.5 s at most", took)
			}
			close(network)
			synctest.Wait()
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
