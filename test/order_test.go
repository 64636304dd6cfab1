//go:build unix

package test

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

// A lock is a mutex too: processes take it again and again, and one that gives it back
// asks first for the next turn. Where waiters only ask, one of two had 1 turn and the
// other 284. Turns are counted until each process has had its part, which a busy machine
// does not change.
func TestTurnsAreEven(t *testing.T) {
	t.Parallel()
	const turn = 20 * time.Millisecond
	for name, tc := range map[string]struct {
		take      func(ctx context.Context, db *sql.DB, fn func()) error
		processes int
		pooled    bool
	}{
		"Hold 8":                   {takeHold, 8, false},
		"Hold 2 PgBouncer":         {takeHold, 2, true},
		"WithXactLock 2":           {takeXact, 2, false},
		"WithXactLock 8 PgBouncer": {takeXact, 8, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Shared(t).NewDB(t)
			part, most := 25, 50*tc.processes // half of its share
			if tc.pooled {                    // a poller meets the lock free by chance: a tenth
				dsn = pgbouncer.New(t, pgtest.Shared(t), "transaction", 4).DSN(dsn)
				part, most = 15, 150*tc.processes
			}
			turns := make([]int, tc.processes)
			total := 0
			var all sync.WaitGroup
			for i := range turns {
				db := locktest.Pool(t, drivers[i%len(drivers)], dsn)
				all.Go(func() {
					for more := true; more; {
						err := tc.take(t.Context(), db, func() { // one at a time
							if more = total < most && slices.Min(turns) < part; more {
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
			if slices.Min(turns) < part {
				t.Errorf("got %v turns; want each to have %d at least", turns, part)
			}
		})
	}
}

func takeHold(ctx context.Context, db *sql.DB, fn func()) error {
	return advisorylock.Hold(ctx, db, leaseKey, func(context.Context) error { fn(); return nil })
}

func takeXact(ctx context.Context, db *sql.DB, fn func()) error {
	return advisorylock.WithXactLock(ctx, db, leaseKey, func(context.Context, *sql.Tx) error { fn(); return nil })
}
