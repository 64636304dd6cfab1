package test

import (
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5"

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

// name is the quoted name of the database.
func (db testDB) name(t *testing.T) string {
	t.Helper()
	return quoted(sqltest.Ask[string](t, db.admin, "SELECT current_database()"))
}

// holdsNoLock waits until no advisory lock is left, with all pools still open.
func (db testDB) holdsNoLock(t *testing.T) {
	t.Helper()
	await.True(t, "all advisory locks to go", func() bool { return sqltest.Ask[int](t, db.admin, advisoryLocks) == 0 })
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
