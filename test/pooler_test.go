//go:build unix

package test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A session-level lock strands behind PgBouncer in transaction mode: the unlock
// goes to another server connection (goauthentik/authentik#23876,
// jackc/tern#146). A transaction stays on one. The pools are smaller than the
// number of clients, so that connections are really shared.
func TestPgBouncer(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, db testDB){
		"exclusion":         pooledExclusion,
		"ensure":            pooledEnsure,
		"lease of a frozen": pooledFrozenHolder,
		"killed":            pooledKilledHolder,
		"pgx's defaults":    pooledDefaults,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t, pgtest.Shared(t))
			bouncer := db
			bouncer.dsn = pgbouncer.New(t, pgtest.Shared(t), "transaction", 4).DSN(db.dsn)
			test(t, bouncer)
			db.holdsNoLock(t)
		})
	}
}

func pooledExclusion(t *testing.T, db testDB) {
	var inside, most atomic.Int32
	visit := func(ctx context.Context, db sqltest.Querier) error {
		n := inside.Add(1)
		defer inside.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		_, err := db.ExecContext(ctx, "SELECT pg_sleep(0.02)")
		return err
	}
	for name, tt := range map[string]struct {
		want int32 // how many are inside at once, at most
		turn func(ctx context.Context, db *sql.DB) error
	}{
		"WithXactLock": {1, func(ctx context.Context, db *sql.DB) error {
			return advisorylock.WithXactLock(ctx, db, leaseKey, func(ctx context.Context, tx *sql.Tx) error { return visit(ctx, tx) })
		}},
		"Hold": {1, func(ctx context.Context, db *sql.DB) error {
			return advisorylock.Hold(ctx, db, leaseKey, func(ctx context.Context) error { return visit(ctx, db) })
		}},
		"control group without a lock": {5, func(ctx context.Context, db *sql.DB) error { return visit(ctx, db) }},
	} {
		most.Store(0)
		began := time.Now()
		crowd(t, 5, db.dsn, tt.turn)
		t.Logf("%s: five turns took %v", name, time.Since(began))
		if got := most.Load(); got > tt.want || tt.want > 1 && got == 1 {
			t.Errorf("%s: got %d inside at once; want %d at most", name, got, tt.want)
		}
	}
}

// crowd lets n pools, of both drivers, take a turn at once.
func crowd(t *testing.T, n int, dsn string, turn func(ctx context.Context, db *sql.DB) error) {
	t.Helper()
	crowdOf(t, drivers, n, dsn, turn)
}

func crowdOf(t *testing.T, drivers []string, n int, dsn string, turn func(ctx context.Context, db *sql.DB) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longWait)
	defer cancel()
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		db := pool(t, drivers[i%len(drivers)], dsn)
		if err := db.PingContext(ctx); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			<-start
			if err := turn(ctx, db); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
}

func pooledEnsure(t *testing.T, db testDB) {
	fleet := startFleet(t, db.dsn)
	for round := range 5 {
		for i, answer := range fleet.run(t, "create schema", fmt.Sprintf("app_%d", round)) {
			if answer.err != "" {
				t.Errorf("process %d: %s", i, answer.err)
			}
		}
	}
	if got := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'app\\__'"); got != 5 {
		t.Errorf("got %d schemas; want 5", got)
	}
	fleet.finish(t)
}

func pooledFrozenHolder(t *testing.T, db testDB) {
	for _, driver := range drivers {
		holderFrozen(t, db, driver)
	}
}

func pooledKilledHolder(t *testing.T, db testDB) {
	for _, driver := range drivers {
		holderKilled(t, db, driver)
	}
}

// pooledDefaults: pgx prepares what has a result, and such a pooler loses it: of 24
// starts 16 to 20 failed with 26000 or 42P05.
func pooledDefaults(t *testing.T, db testDB) {
	guard := schemaguard.Guard{Once: "build 1"}
	var migrated atomic.Int32
	for range 2 {
		crowdOf(t, drivers[:1], 12, db.dsn, func(ctx context.Context, db *sql.DB) error {
			return guard.Ensure(ctx, db, "once", func(ctx context.Context, db *sql.DB) error {
				migrated.Add(1)
				_, err := db.ExecContext(ctx, "CREATE TABLE once.t ()")
				return err
			})
		})
	}
	if n := migrated.Load(); n != 1 {
		t.Errorf("got %d calls of migrate; want 1", n)
	}
}
