// Package facts tests PostgreSQL, database/sql and the drivers: what the code relies on,
// or is there to work around. A test that fails says that the world has changed.
package facts

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"syscall"
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

// Statements in one Exec without arguments: what a SELECT sets by set_config is in force
// for the next, and ends with the transaction. SET LOCAL would be the same, but for
// pg_stat_statements, which keeps its text as it is.
func TestSetConfigAppliesWithinOneExec(t *testing.T) {
	fact(t, func(t *testing.T, _, dsn string, db *sql.DB) {
		holder := sqltest.Occupy(t, dsn, 1)
		db.SetMaxOpenConns(1)
		tests := map[string]struct{ session, statements, code string }{
			"lock_timeout":                  {"", "SELECT set_config('lock_timeout', '50ms', true); SELECT pg_advisory_xact_lock(1)", "55P03"},
			"no timeout":                    {"SET statement_timeout = '300ms'", "SELECT set_config('statement_timeout', '0', true); SELECT pg_sleep(0.6)", ""},
			"the session's comes to nought": {"SET statement_timeout = '300ms'", "SELECT 1; SELECT pg_sleep(60)", "57014"},
		}
		for name, tt := range tests {
			sqltest.Exec(t, db, "RESET ALL")
			if tt.session != "" {
				sqltest.Exec(t, db, tt.session)
			}
			settings := "SELECT current_setting('lock_timeout') || current_setting('statement_timeout')"
			before := sqltest.Ask[string](t, db, settings)
			tx := sqltest.Begin(t, db)
			_, err := tx.ExecContext(t.Context(), tt.statements)
			if got := sqlstate.Of(err); got != tt.code || (err == nil) != (tt.code == "") {
				t.Errorf("%s: got %v; want %q", name, err, tt.code)
			}
			_ = tx.Rollback()
			if after := sqltest.Ask[string](t, db, settings); after != before {
				t.Errorf("%s: got %q after the transaction; want %q", name, after, before)
			}
		}
		sqltest.Commit(t, holder)
	})
}

// A burst in the server's queue is a DO block that catches the lock_timeout: the lock,
// if it is granted, outlives the block's subtransaction, and an expiry aborts nothing.
// A transaction may take a lock again that it has, even if others wait for it.
func TestLockOutlivesDoBlock(t *testing.T) {
	fact(t, func(t *testing.T, _, dsn string, db *sql.DB) {
		const burst = "SELECT set_config('lock_timeout', '50ms', true); " +
			"DO $$ BEGIN PERFORM pg_advisory_xact_lock(1); EXCEPTION WHEN lock_not_available THEN NULL; END $$; " +
			"SELECT pg_advisory_xact_lock(1) FROM generate_series(1, CASE WHEN pg_try_advisory_xact_lock(1) THEN 1 ELSE 0 END)"
		tx := sqltest.Begin(t, db)
		sqltest.Exec(t, tx, "SELECT pg_advisory_xact_lock(1)")
		waiter := await.Go(func() error {
			_, err := db.ExecContext(t.Context(), "SELECT pg_advisory_xact_lock(1)")
			return err
		})
		sqltest.AwaitWaiters(t, sqltest.Open(t, "pgx", dsn), 1, 1)
		if rows := sqltest.Rows(t, tx, burst); rows != 1 {
			t.Errorf("free, but for a waiter: got %d rows; want 1", rows)
		}
		sqltest.Commit(t, tx)
		if err := await.Value(t, waiter); err != nil {
			t.Error(err)
		}

		holder := sqltest.Occupy(t, dsn, 1)
		tx = sqltest.Begin(t, db)
		if rows := sqltest.Rows(t, tx, burst); rows != 0 {
			t.Errorf("taken: got %d rows; want 0", rows)
		}
		sqltest.Exec(t, tx, "SELECT 1") // in a transaction that is not aborted
		sqltest.Commit(t, tx)
		sqltest.Commit(t, holder)
	})
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

func TestRowsAffectedIsThatOfTheLastStatement(t *testing.T) {
	fact(t, func(t *testing.T, _, dsn string, db *sql.DB) {
		holder := sqltest.Occupy(t, dsn, 1)
		for statements, want := range map[string]int{
			"SELECT 1 WHERE pg_try_advisory_xact_lock(1)":                                                       0,
			"SELECT 1 WHERE pg_try_advisory_xact_lock(2)":                                                       1,
			"SELECT FROM generate_series(1, CASE WHEN pg_try_advisory_xact_lock(3) THEN 3 ELSE 0 END)":          3,
			"SELECT FROM generate_series(1, CASE WHEN pg_try_advisory_xact_lock(1) THEN 3 END)":                 0,
			"SELECT generate_series(1, 5); SELECT 1 WHERE pg_try_advisory_xact_lock(1)":                         0,
			"SELECT 1 WHERE pg_try_advisory_xact_lock(1); SELECT 1 WHERE pg_try_advisory_xact_lock(4)":          1,
			"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'public'":               1,
			"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'there is no such one'": 0,
		} {
			if got := sqltest.Rows(t, sqltest.Begin(t, db), statements); got != want {
				t.Errorf("%s: got %d; want %d", statements, got, want)
			}
		}
		sqltest.Commit(t, holder)
	})
}

// lib/pq asks for READ WRITE with any options at all, even where
// default_transaction_read_only is on; on a standby that is the error 0A000.
func TestBeginReadWrite(t *testing.T) {
	fact(t, func(t *testing.T, driver, dsn string, _ *sql.DB) {
		db := sqltest.Open(t, driver, pgtest.WithParams(dsn, "default_transaction_read_only", "on"))
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback() //nolint:errcheck // nothing was changed
		want := map[string]string{"pgx": "on", "postgres": "off"}[driver]
		if got := sqltest.Ask[string](t, tx, "SHOW transaction_read_only"); got != want {
			t.Errorf("got transaction_read_only %s; want %s", got, want)
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
		if err := await.Value(t, waits); err != nil {
			t.Error(err)
		}
		if err := blocked(); err != nil {
			t.Errorf("for the waiter that got the lock and is idle: %v", err)
		}
		sqltest.Commit(t, waiter)
		if err := await.Value(t, index); err != nil {
			t.Error(err)
		}
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

// The end of a context in the wait: pgx returns the context's error and closes
// the connection, lib/pq returns SQLSTATE 57014.
func TestCancelledStatement(t *testing.T) {
	fact(t, func(t *testing.T, driver, dsn string, db *sql.DB) {
		holder := sqltest.Occupy(t, dsn, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		waiter := sqltest.Begin(t, db)
		returned := await.Go(func() error {
			_, err := waiter.ExecContext(ctx, "SELECT pg_advisory_xact_lock(1)")
			return err
		})
		sqltest.AwaitWaiters(t, db, 1, 1)
		cancel()
		err := await.Value(t, returned)
		is, code := errors.Is(err, context.Canceled), sqlstate.Of(err)
		switch driver {
		case "pgx":
			if !is || code != "" {
				t.Errorf("got %v (%q); want the context's error", err, code)
			}
		case "postgres":
			if is || code != "57014" {
				t.Errorf("got %v (%q); want 57014 and not the context's error", err, code)
			}
		}
		sqltest.Commit(t, holder)
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

// What the drivers say when the session was ended.
func TestTerminatedSession(t *testing.T) {
	fact(t, func(t *testing.T, driver_, dsn string, db *sql.DB) {
		admin := sqltest.Open(t, "pgx", dsn)
		tx := sqltest.Begin(t, db)
		sqltest.Exec(t, tx, "SELECT pg_advisory_xact_lock(1)")
		sqltest.Exec(t, admin, "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE l.locktype = 'advisory' AND d.datname = current_database()")
		await.True(t, "the session to end", func() bool { return !taken(t, db, 1) })
		err := tx.Commit()
		switch driver_ {
		case "pgx":
			if sqlstate.Of(err) != "57P01" {
				t.Errorf("got %v; want 57P01", err)
			}
		case "postgres":
			if !errors.Is(err, driver.ErrBadConn) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v; want driver.ErrBadConn, or the connection reset", err)
			}
		}
	})
}

// SET LOCAL … TO DEFAULT is not a way back to what the session had.
func TestDefaultLosesSessionSetting(t *testing.T) {
	fact(t, func(t *testing.T, _, _ string, db *sql.DB) {
		db.SetMaxOpenConns(1)
		sqltest.Exec(t, db, "SET lock_timeout = '123ms'")
		tx := sqltest.Begin(t, db)
		sqltest.Exec(t, tx, "SELECT set_config('lock_timeout', '50ms', true); SET LOCAL lock_timeout TO DEFAULT")
		if got := sqltest.Ask[string](t, tx, "SHOW lock_timeout"); got == "123ms" {
			t.Errorf("got %s; want the server's default", got)
		}
		sqltest.Exec(t, tx, "SELECT set_config('bootlock.x', '123ms', true), set_config('lock_timeout', '50ms', true); "+
			"SELECT set_config('lock_timeout', current_setting('bootlock.x'), true)")
		if got := sqltest.Ask[string](t, tx, "SHOW lock_timeout"); got != "123ms" {
			t.Errorf("got %s; want 123ms back", got)
		}
		sqltest.Commit(t, tx)
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
