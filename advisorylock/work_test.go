//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bridge"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// An attempt keeps a connection for a second from work that goes on. A slow poll shows
// that there is some; but on a machine where all polls are slow it shows nothing.
func TestSlowPollIsNotFollowedByAnAttempt(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		_, pool := workPool(t, d, 1500*time.Millisecond, func(context.Context) error { return errFull })
		var sent strings.Builder
		d.OnCall(func(_ context.Context, c *recdriver.Call) error {
			switch {
			case strings.Contains(c.Query, "pg_is_in_recovery"):
				sent.WriteString("take ")
			case strings.Contains(c.Query, "pg_try_advisory_xact_lock_shared"):
				time.Sleep(190 * time.Millisecond)
				sent.WriteString("poll ")
			}
			return nil
		})
		c, _ := holdCall(db)
		c.Work = pool
		if err := bridge.Hold(t.Context(), c, noFn); err != nil {
			t.Error(err)
		}
		checkSame(t, "statements", sent.String(), "take poll poll poll poll take ")
	})
}

// A connection for the work that is there no longer does not count: the work would have
// to open another, which may be refused.
func TestConnectionForTheWorkInTheLastMoment(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		work, pool := workPool(t, d, 0, nil)
		// lib/pq closes a connection whose context ends while the answer comes, and returns no error.
		work.OnCall(answerLate(recdriver.Exec, func(ctx context.Context, conn int) {
			if conn == 1 {
				<-ctx.Done()
			}
		}))
		work.OnCall(recdriver.FailOn(recdriver.Release, "", 1, driver.ErrBadConn))
		c, _ := holdCall(db)
		c.Work = pool
		err := bridge.Hold(t.Context(), c, func(ctx context.Context) error { return usePool(ctx, pool) })
		if err != nil {
			t.Error(err)
		}
		checkSame(t, "calls", work.String(), "connect > exec > release! > close > connect > exec > release > take > exec > release")
	})
}

// The lock may be gone before its work begins.
func TestLockThatEndsBeforeTheWork(t *testing.T) {
	t.Parallel()
	// second holds the lock, which the first transaction may not keep.
	second := func(t *testing.T, d *recdriver.Driver, c bridge.Call) {
		t.Helper()
		if err := bridge.Hold(t.Context(), c, noFn); err != nil {
			t.Error(err)
		}
		checkSame(t, "transactions", strings.Count(d.String(), "begin"), 2)
	}

	t.Run("with the statement that tells the waiters", func(t *testing.T) {
		bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
			_, pool := workPool(t, d, 5*time.Millisecond, func(context.Context) error { return errFull })
			d.OnCall(recdriver.FailOn(recdriver.Exec, "CASE WHEN pg_catalog.pg_try_advisory_xact_lock(", 1, recdriver.SQLError{Code: "53200", Message: "out of shared memory"}))
			c, _ := holdCall(db)
			c.Work = pool
			second(t, d, c)
		})
	})
	t.Run("while it makes sure", func(t *testing.T) {
		bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
			work, pool := workPool(t, d, 0, nil)
			lateGrant := sync.OnceFunc(func() { time.Sleep(700 * time.Millisecond) })
			slowWork := sync.OnceFunc(func() { time.Sleep(250 * time.Millisecond) })
			d.OnCall(func(_ context.Context, c *recdriver.Call) error {
				if strings.Contains(c.Query, "pg_is_in_recovery") {
					lateGrant()
				}
				return nil
			})
			work.OnCall(func(context.Context, *recdriver.Call) error {
				slowWork()
				return nil
			})
			c, _ := holdCall(db)
			c.Work, c.TTL = pool, time.Second
			second(t, d, c)
		})
	})
	t.Run("during a hook", func(t *testing.T) {
		bubble(t, recdriver.Plain, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
			trace := &locktrace.Trace{Done: func(_ context.Context, e locktrace.Event) {
				if e.Step == locktrace.Lock {
					time.Sleep(2 * time.Second)
				}
			}}
			err := advisorylock.Locker{TTL: time.Second, Trace: trace}.Hold(t.Context(), db, key, uncalled(t))
			checkIs(t, err, advisorylock.ErrLost)
		})
	})
}
