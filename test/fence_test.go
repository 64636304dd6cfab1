package test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// loseFenced takes leaseKey on db, begins a fenced transaction on its pool, sleeps in a
// statement of it, and ends the session of the lock.
func loseFenced(t *testing.T, db testDB, ttl time.Duration, old *sql.DB, sleep time.Duration) (returned <-chan error) {
	t.Helper()
	fenced := make(chan struct{})
	returned = await.Go(func() error {
		return advisorylock.Locker{TTL: ttl}.Hold(t.Context(), old, leaseKey, func(ctx context.Context) error {
			tx, err := old.BeginTx(context.WithoutCancel(ctx), nil)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = tx.Rollback() })
			if err := advisorylock.Fence(ctx, tx); err != nil {
				return err
			}
			close(fenced)
			_, err = tx.ExecContext(context.Background(), fmt.Sprintf("SELECT pg_sleep(%v)", sleep.Seconds()))
			return err
		})
	})
	await.Value(t, fenced)
	if sleep > 0 {
		await.True(t, "the long statement", func() bool {
			return sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()") == 1
		})
	}
	locktest.Terminate(t, db.admin, leaseKey)
	return returned
}

// How long a fenced transaction keeps the next holder out when its process is
// frozen or dead. Only the order is checked; the times are for the documentation.
func TestFencedTransactionEnds(t *testing.T) {
	t.Parallel()
	const ttl, long = time.Second, 3 * time.Second
	for name, tc := range map[string]struct {
		driver string
		params []string
		freeze bool
		sleep  time.Duration // in the statement
		least  time.Duration // before this the next one must not begin
	}{
		"frozen between two statements":      {driver: "postgres", freeze: true},
		"frozen in a long statement":         {driver: "pgx", freeze: true, sleep: long, least: long * 9 / 10},
		"killed between two statements":      {driver: "pgx"},
		"killed in a long statement":         {driver: "postgres", sleep: long, least: long * 9 / 10},
		"killed in a long statement, looked": {driver: "pgx", params: []string{"client_connection_check_interval", "500ms"}, sleep: long},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t, pgtest.Shared(t))
			network := newNetwork(t, pgtest.WithParams(db.dsn, tc.params...))
			began := time.Now()
			returned := loseFenced(t, db, ttl, sqltest.Open(t, tc.driver, network.dsn), tc.sleep)
			granted, _ := holdNext(t, locktest.Pool(t, tc.driver, db.dsn))
			if !tc.freeze {
				network.Close() // pgx would ask for a cancel, if it could connect
			}
			if err := await.Value(t, granted); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			t.Logf("TTL %v, statement of %v: the next one began after %v", ttl, long, took.Round(10*time.Millisecond))
			if took < tc.least {
				t.Errorf("the next one began after %v; want %v at least", took, tc.least)
			}
			_ = await.Value(t, returned) // ErrLost, sooner or later
		})
	}
}
