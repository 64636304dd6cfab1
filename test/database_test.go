package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// testDB is a database of the test's own, and a pool to look at it with.
type testDB struct {
	dsn   string
	admin *sql.DB
}

// newTestDB makes a database. At the end of the test nobody may be connected to
// it any more.
func newTestDB(t *testing.T, server *pgtest.Server) testDB {
	t.Helper()
	dsn := server.NewDB(t)
	admin := sqltest.Open(t, "pgx", pgtest.WithParams(dsn, "application_name", "bootlock-test"))
	db := testDB{dsn: dsn, admin: admin}
	t.Cleanup(func() {
		await.True(t, "all connections to end", func() bool {
			return sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"+
				" AND backend_type = 'client backend' AND application_name <> 'bootlock-test'") == 0
		})
	})
	return db
}

const advisoryLocks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database" +
	" WHERE l.locktype = 'advisory' AND d.datname = current_database()"

// awaitWaiters waits until n sessions wait for advisory locks at the same time.
func (db testDB) awaitWaiters(t *testing.T, n int) {
	t.Helper()
	await.True(t, fmt.Sprintf("%d to wait for the lock", n), func() bool {
		return sqltest.Ask[int](t, db.admin, advisoryLocks+" AND NOT l.granted") == n
	})
}

// awaitSomeWaiters waits until anybody waits for an advisory lock. Of many who do, few
// block in the server, and the others ask now and then.
func (db testDB) awaitSomeWaiters(t *testing.T) {
	t.Helper()
	await.True(t, "somebody to wait for the lock", func() bool {
		return sqltest.Ask[int](t, db.admin, advisoryLocks+" AND NOT l.granted") > 0
	})
}

// holdsNoLock waits until no advisory lock is left, with all pools still open.
func (db testDB) holdsNoLock(t *testing.T) {
	t.Helper()
	await.True(t, "all advisory locks to go", func() bool { return sqltest.Ask[int](t, db.admin, advisoryLocks) == 0 })
}

// holders are the server processes that have the lock.
func (db testDB) holders(t *testing.T, key advisorylock.Key) (pids []int) {
	t.Helper()
	all, err := advisorylock.Sessions(t.Context(), db.admin, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Granted {
			pids = append(pids, s.PID)
		}
	}
	return pids
}

// terminate ends the sessions that have the lock, and returns whose they were.
func (db testDB) terminate(t *testing.T, key advisorylock.Key) (pids []int) {
	t.Helper()
	pids = db.holders(t, key)
	db.end(t, pids)
	return pids
}

// end ends server processes, but for those that are gone already.
func (db testDB) end(t *testing.T, pids []int) {
	t.Helper()
	sqltest.Ask[int](t, db.admin, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid = ANY($1)", pids)
}

// pool opens a pool from which nothing may be missing at the end of the test.
func pool(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db := sqltest.Open(t, driver, dsn)
	t.Cleanup(func() {
		await.True(t, "all connections to be back in the pool", func() bool { return db.Stats().InUse == 0 })
	})
	return db
}

// nothingLeft waits for the server to notice connections that were just closed.
func nothingLeft(t testing.TB, dsn string) {
	t.Helper()
	admin := sqltest.Open(t, "pgx", dsn)
	defer admin.Close()
	await.True(t, "all locks and transactions to go", func() bool {
		return sqltest.Ask[int](t, admin, advisoryLocks) == 0 && sqltest.Ask[int](t, admin,
			"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'") == 0
	})
}

// wantTaken checks that key is taken, as seen by another session.
func wantTaken(t testing.TB, other *sql.DB, key advisorylock.Key) {
	t.Helper()
	if err := advisorylock.TryWithXactLock(t.Context(), other, key, noTx); !errors.Is(err, advisorylock.ErrNotAcquired) {
		t.Errorf("another session tried for the lock: got %v; want ErrNotAcquired", err)
	}
}

func noTx(context.Context, *sql.Tx) error { return nil }

// lastingWait adds to l a channel that gets what Trace.Waiting is told once the
// wait goes on for more than a second, in bursts.
func lastingWait(l advisorylock.Locker) (advisorylock.Locker, <-chan locktrace.Wait) {
	lasting := make(chan locktrace.Wait, 100)
	l.Trace = &locktrace.Trace{Waiting: func(_ context.Context, w locktrace.Wait) { lasting <- w }}
	return l, lasting
}

func wantStep(t testing.TB, err error, want locktrace.Step) {
	t.Helper()
	var failed *locktrace.StepError
	if !errors.As(err, &failed) || failed.Step != want {
		t.Errorf("got %v; want a StepError that says %q", err, want)
	}
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
