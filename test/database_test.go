package test

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
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
	if err := advisorylock.TryWithXactLock(t.Context(), other, key, locktest.Nothing); !errors.Is(err, advisorylock.ErrNotAcquired) {
		t.Errorf("another session tried for the lock: got %v; want ErrNotAcquired", err)
	}
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
