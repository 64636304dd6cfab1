//go:build unix

package test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

// A lock is a mutex too: processes take it again and again, and one that gives it back
// asks first for the next turn. Where waiters only ask, one of two had 1 turn and the
// other 284. The turns are counted until one has had enough of them, which a busy machine
// does not change.
func TestTurnsAreEven(t *testing.T) {
	t.Parallel()
	const turn = 20 * time.Millisecond
	for op, take := range map[string]func(ctx context.Context, db *sql.DB, fn func()) error{
		"Hold": func(ctx context.Context, db *sql.DB, fn func()) error {
			return advisorylock.Hold(ctx, db, leaseKey, func(context.Context) error { fn(); return nil })
		},
		"WithXactLock": func(ctx context.Context, db *sql.DB, fn func()) error {
			return advisorylock.WithXactLock(ctx, db, leaseKey, func(context.Context, *sql.Tx) error { fn(); return nil })
		},
	} {
		for _, processes := range []int{2, 8} {
			for way, share := range map[string]int{"direct": 2, "PgBouncer": 10} {
				t.Run(fmt.Sprintf("%s %d %s", op, processes, way), func(t *testing.T) {
					t.Parallel()
					db := testDB{dsn: pgtest.Shared(t).NewDB(t)}
					if way == "PgBouncer" {
						db.dsn = pgbouncer.New(t, pgtest.Shared(t), "transaction", 4).DSN(db.dsn)
					}
					turns := make([]int, processes)
					total, enough := 0, 50*processes
					if way == "PgBouncer" { // a poller meets the lock free by chance
						enough *= 3
					}
					var all sync.WaitGroup
					for i := range processes {
						pool := pool(t, drivers[i%len(drivers)], db.dsn)
						all.Go(func() {
							for more := true; more; {
								err := take(t.Context(), pool, func() { // one at a time
									if more = total < enough; more {
										total++
										turns[i]++
										time.Sleep(turn)
									}
								})
								if err != nil {
									t.Error(err)
									return
								}
							}
						})
					}
					all.Wait()
					t.Logf("turns: %v", turns)
					for _, n := range turns {
						if n*share < enough/processes {
							t.Errorf("got %v turns; want each to have a %d. part of its share at least", turns, share)
							break
						}
					}
				})
			}
		}
	}
}
