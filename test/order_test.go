package test

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
)

// Three processes share a lock, each for longer than a burst, and always one of them
// has it. Who wants it for itself gets it only if the others let it, as the server's
// queue does: whoever leaves that queue at the end of each burst is overtaken by
// sharers again and again.
func TestSharersDoNotStarve(t *testing.T) {
	t.Parallel()
	const turn = 2500 * time.Millisecond
	for op, wait := range waitFor {
		t.Run(op, func(t *testing.T) {
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				db := newTestDB(t, pgtest.Shared(t))
				ctx, cancel := context.WithCancel(t.Context())
				var sharers sync.WaitGroup
				defer sharers.Wait()
				defer cancel()
				inside := make(chan struct{}, 1000)
				for i := range 3 {
					sharer := pool(t, drivers[i%len(drivers)], db.dsn)
					sharers.Go(func() {
						time.Sleep(time.Duration(i) * turn / 3) // so that they overlap
						for ctx.Err() == nil {
							_ = advisorylock.Locker{Shared: true}.WithXactLock(ctx, sharer, leaseKey, func(ctx context.Context, _ *sql.Tx) error {
								inside <- struct{}{}
								select {
								case <-time.After(turn):
								case <-ctx.Done():
								}
								return nil
							})
						}
					})
				}
				for range 3 {
					await.Value(t, inside)
				}
				exclusive := pool(t, driver, db.dsn)
				limit, stop := context.WithTimeout(ctx, await.Limit/2)
				defer stop()
				began := time.Now()
				if err := wait(limit, advisorylock.Locker{}, exclusive, leaseKey); err != nil {
					t.Errorf("got %v; want the lock, beside those who share it", err)
				}
				t.Logf("the exclusive lock took %v", time.Since(began))
			})
		})
	}
}

// Whoever leaves the server's queue at the end of a burst comes last again, and the
// one who asks at the right moment may be ahead of all who have waited. Here eight
// processes take turns for longer than some bursts, and each wait is measured by the
// turns of the others in it, which a busy machine does not change: seven in the
// server's own queue.
func TestTurnsAreFair(t *testing.T) {
	t.Parallel()
	const processes, turn, turns = 8, 400 * time.Millisecond, 5
	most := func(t *testing.T, take func(ctx context.Context, db *sql.DB, fn func()) error) int64 {
		db := newTestDB(t, pgtest.Shared(t))
		var all sync.WaitGroup
		var taken, longest atomic.Int64
		for i := range processes {
			pool := pool(t, drivers[i%len(drivers)], db.dsn)
			all.Go(func() {
				for range turns {
					asked := taken.Load()
					err := take(t.Context(), pool, func() {
						if others := taken.Add(1) - 1 - asked; others > longest.Load() {
							longest.Store(others) // one at a time
						}
						time.Sleep(turn)
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		return longest.Load()
	}
	for name, take := range map[string]func(ctx context.Context, db *sql.DB, fn func()) error{
		"by hand": func(ctx context.Context, db *sql.DB, fn func()) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
			if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock(4711)"); err != nil {
				return err
			}
			fn()
			return tx.Commit()
		},
		"Hold": func(ctx context.Context, db *sql.DB, fn func()) error {
			return advisorylock.Hold(ctx, db, leaseKey, func(context.Context) error { fn(); return nil })
		},
		"WithXactLock": func(ctx context.Context, db *sql.DB, fn func()) error {
			return advisorylock.WithXactLock(ctx, db, leaseKey, func(context.Context, *sql.Tx) error { fn(); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := most(t, take)
			t.Logf("longest wait: %d turns of others", got)
			if got > 2*(processes-1) {
				t.Errorf("got a wait of %d turns of others; want %d at most, twice what the server's queue gives", got, 2*(processes-1))
			}
		})
	}
}
