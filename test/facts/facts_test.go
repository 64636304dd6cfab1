// Package facts tests PostgreSQL, database/sql and the drivers: the reasons that the
// documentation gives. A test that fails says that the world has changed. What the code
// relies on is seen in test/conformance.
package facts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/internal/serverpid"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// fact runs test once per driver, on an empty database.
func fact(t *testing.T, test func(t *testing.T, driver, dsn string, db *sql.DB)) {
	t.Helper()
	t.Parallel()
	for _, driver := range []string{"pgx", "postgres"} {
		t.Run(driver, func(t *testing.T) {
			dsn := pgtest.Shared(t).NewDB(t)
			test(t, driver, dsn, sqltest.Open(t, driver, dsn))
		})
	}
}

// taken reports whether key is taken, as seen by a session of db that has not taken it.
func taken(t *testing.T, db *sql.DB, key int) bool {
	t.Helper()
	other := sqltest.Begin(t, db)
	defer sqltest.Commit(t, other)
	return sqltest.Rows(t, other, fmt.Sprintf("SELECT 1 WHERE pg_try_advisory_xact_lock(%d)", key)) == 0
}

// A server tells each client the number of its process; PgBouncer makes one up, since
// any of its connections may be used for the next transaction.
func TestServerPID(t *testing.T) {
	fact(t, func(t *testing.T, driver, dsn string, db *sql.DB) {
		for way, db := range map[string]*sql.DB{
			"direct": db, "PgBouncer": sqltest.Open(t, driver, pgbouncer.New(t, pgtest.Shared(t), "transaction", 4).DSN(dsn)),
		} {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var told int64
			if err := conn.Raw(func(c any) error { told = serverpid.Of(c); return nil }); err != nil {
				t.Fatal(err)
			}
			same := sqltest.Rows(t, conn, fmt.Sprintf("SELECT WHERE pg_backend_pid() = %d", told)) == 1
			if told == 0 || same != (way == "direct") {
				t.Errorf("%s: got %d; want that of the process, if the way is direct: %t", way, told, same)
			}
		}
	})
}

// Two names of 64 bytes and more can be one schema, under two keys.
func TestLongNamesAreCut(t *testing.T) {
	fact(t, func(t *testing.T, _, _ string, db *sql.DB) {
		name := strings.Repeat("x", 63)
		sqltest.Exec(t, db, "CREATE SCHEMA "+name+"1")
		if !sqltest.Ask[bool](t, db, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", name) {
			t.Error("the name was not cut to 63 bytes")
		}
		_, err := db.ExecContext(t.Context(), "CREATE SCHEMA "+name+"2")
		if sqlstate.Of(err) != "42P06" {
			t.Errorf("got %v for another name of 64 bytes; want 42P06, it is there", err)
		}
		_, err = db.ExecContext(t.Context(), "CREATE SCHEMA pg_app")
		if sqlstate.Of(err) != "42939" {
			t.Errorf("got %v for pg_app; want 42939", err)
		}
	})
}

// A literal statement through Exec leaves no snapshot; a key as $1 leaves one.
func TestSnapshots(t *testing.T) {
	fact(t, func(t *testing.T, _, dsn string, db *sql.DB) {
		admin := sqltest.Open(t, "pgx", dsn)
		pinned := func() bool {
			return sqltest.Ask[bool](t, admin, `SELECT a.backend_xmin IS NOT NULL FROM pg_stat_activity a JOIN pg_locks l USING (pid)
				WHERE l.locktype = 'advisory' AND l.database = a.datid AND a.datname = current_database()`)
		}
		literal := sqltest.Begin(t, db)
		sqltest.Exec(t, literal, "SELECT pg_advisory_xact_lock(1)")
		if pinned() {
			t.Error("literal: got a snapshot; want none")
		}
		sqltest.Commit(t, literal)

		parameter := sqltest.Begin(t, db)
		if _, err := parameter.ExecContext(t.Context(), "SELECT pg_advisory_xact_lock($1)", 1); err != nil {
			t.Fatal(err)
		}
		if !pinned() {
			t.Error("$1: got no snapshot; want one")
		}
		sqltest.Commit(t, parameter)
	})
}

// A session that waits in pg_advisory_xact_lock keeps a snapshot for as long as
// it waits, and CREATE INDEX CONCURRENTLY waits for that: not until the snapshot
// is given up, but until the transaction ends, even if it got the lock meanwhile.
func TestWaiterBlocksIndex(t *testing.T) {
	fact(t, func(t *testing.T, _, dsn string, db *sql.DB) {
		admin := sqltest.Open(t, "pgx", dsn)
		sqltest.Exec(t, admin, "CREATE TABLE users (id int)")
		holder := sqltest.Occupy(t, dsn, 1)
		waiter := sqltest.Begin(t, db)
		waits := await.Go(func() error {
			_, err := waiter.ExecContext(t.Context(), "SELECT pg_advisory_xact_lock(1)")
			return err
		})
		sqltest.AwaitWaiters(t, admin, 1, 1)
		index := await.Go(func() error {
			_, err := db.ExecContext(t.Context(), "CREATE INDEX CONCURRENTLY ON users (id)")
			return err
		})
		blocked := func() error {
			if sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND wait_event = 'virtualxid'") != 1 {
				return errors.New("it does not")
			}
			return nil
		}
		await.Until(t, "the index to wait for the waiter", blocked)
		sqltest.Commit(t, holder)
		await.NoError(t, "the waiter", waits)
		if err := blocked(); err != nil {
			t.Errorf("for the waiter that got the lock and is idle: %v", err)
		}
		sqltest.Commit(t, waiter)
		await.NoError(t, "the index", index)
	})
}

// A role without CREATE, and a read-only session, are refused before the server
// looks at IF NOT EXISTS.
func TestRefusedThoughItExists(t *testing.T) {
	fact(t, func(t *testing.T, driver, dsn string, db *sql.DB) {
		role := pgtest.Shared(t).NewRole(t)
		sqltest.Exec(t, db, "CREATE SCHEMA app; CREATE SCHEMA hidden")
		const create = "CREATE SCHEMA IF NOT EXISTS app"
		unprivileged := sqltest.Open(t, driver, pgtest.WithUser(dsn, role, pgtest.RolePassword))
		if _, err := unprivileged.ExecContext(t.Context(), create); sqlstate.Of(err) != "42501" {
			t.Errorf("without CREATE: got %v; want 42501", err)
		}
		readOnly := sqltest.Open(t, driver, pgtest.WithParams(dsn, "default_transaction_read_only", "on"))
		if _, err := readOnly.ExecContext(t.Context(), create); sqlstate.Of(err) != "25006" {
			t.Errorf("read-only: got %v; want 25006", err)
		}
		if n := sqltest.Ask[int](t, unprivileged, "SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'hidden'"); n != 0 {
			t.Errorf("information_schema: got %d; want 0 for a role without rights on the schema", n)
		}
		if n := sqltest.Ask[int](t, unprivileged, "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = 'hidden'"); n != 1 {
			t.Errorf("pg_namespace: got %d; want 1", n)
		}
	})
}

// database/sql rolls a transaction back when the context that it was begun with
// ends, even while the code that uses it runs on.
func TestContextTakesTransaction(t *testing.T) {
	fact(t, func(t *testing.T, _, dsn string, db *sql.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback() //nolint:errcheck // it is gone
		sqltest.Exec(t, tx, "SELECT pg_advisory_xact_lock(1)")
		cancel()
		await.True(t, "the lock to be free though nobody ended the transaction", func() bool { return !taken(t, db, 1) })
	})
}

// A lock statement at SERIALIZABLE takes the transaction's snapshot before it
// waits: what the holder committed is not seen after the wait.
func TestSerializableSnapshotIsFromBeforeTheWait(t *testing.T) {
	fact(t, func(t *testing.T, _, dsn string, db *sql.DB) {
		admin := sqltest.Open(t, "pgx", dsn)
		sqltest.Exec(t, admin, "CREATE TABLE done (id int)")
		for level, want := range map[sql.IsolationLevel]int{sql.LevelSerializable: 0, sql.LevelReadCommitted: 1} {
			sqltest.Exec(t, admin, "TRUNCATE done")
			holder := sqltest.Occupy(t, dsn, 1)
			tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
			if err != nil {
				t.Fatal(err)
			}
			waits := await.Go(func() error {
				_, err := tx.ExecContext(t.Context(), "SELECT pg_advisory_xact_lock(1)")
				return err
			})
			sqltest.AwaitWaiters(t, admin, 1, 1)
			sqltest.Exec(t, holder, "INSERT INTO done VALUES (1)")
			sqltest.Commit(t, holder)
			if err := await.Value(t, waits); err != nil {
				t.Fatal(err)
			}
			if got := sqltest.Ask[int](t, tx, "SELECT count(*) FROM done"); got != want {
				t.Errorf("%v: got %d rows; want %d", level, got, want)
			}
			sqltest.Commit(t, tx)
		}
	})
}

// A clash that is swallowed inside its transaction: COMMIT then rolls back.
func TestSwallowedClashCommitsNothing(t *testing.T) {
	fact(t, func(t *testing.T, _, _ string, db *sql.DB) {
		sqltest.Exec(t, db, "CREATE SCHEMA app")
		tx := sqltest.Begin(t, db)
		sqltest.Exec(t, tx, "CREATE TABLE app.users (id int)")
		if _, err := tx.ExecContext(t.Context(), "CREATE SCHEMA app"); sqlstate.Of(err) != "42P06" {
			t.Fatalf("got %v; want 42P06", err)
		}
		err := tx.Commit()
		if n := sqltest.Ask[int](t, db, "SELECT count(*) FROM pg_tables WHERE schemaname = 'app'"); err == nil || n != 0 {
			t.Errorf("got %v and %d tables; want an error and none", err, n)
		}
	})
}

// A session-level lock goes back to the pool with its connection.
func TestSessionLockSurvivesClose(t *testing.T) {
	fact(t, func(t *testing.T, _, dsn string, db *sql.DB) {
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sqltest.Exec(t, conn, "SELECT pg_advisory_lock(1)")
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if !taken(t, sqltest.Open(t, "pgx", dsn), 1) {
			t.Error("got the lock free; want it taken")
		}
	})
}
