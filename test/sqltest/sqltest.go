// Package sqltest is database/sql for tests: what fails ends the test. It imports no
// driver.
//
//   - [Open], [Begin], [Commit], [Exec], [Ask] and [Rows] are what their names say.
//   - [AskFence] is a fence by the server's word alone.
//   - [Occupy] takes advisory locks by hand, and [AwaitWaiters] looks who waits for one.
package sqltest

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/fence"
	"github.com/bootlock/bootlock/test/await"
)

// Querier is a pool, a connection or a transaction.
type Querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Open opens a pool that is closed when the test ends.
func Open(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// Begin begins a transaction that is rolled back when the test ends.
func Begin(t testing.TB, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

// Commit commits tx.
func Commit(t testing.TB, tx *sql.Tx) {
	t.Helper()
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// Exec runs statements. It may be called while the test cleans up.
func Exec(t testing.TB, db Querier, statements string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), await.Limit)
	defer cancel()
	if _, err := db.ExecContext(ctx, statements); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

// Ask returns the one value that query has. It may be called while the test cleans
// up.
func Ask[T any](t testing.TB, db Querier, query string, args ...any) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), await.Limit)
	defer cancel()
	var v T
	if err := db.QueryRowContext(ctx, query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// Rows returns how many rows query has. Unlike [Ask] it prepares nothing, so that it
// may go through a pooler that hands a prepared statement's session to others.
func Rows(t testing.TB, db Querier, query string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), await.Limit)
	defer cancel()
	result, err := db.ExecContext(ctx, query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return int(n)
}

// Occupy takes keys by hand, in a session of its own, until the transaction that it
// returns ends. It takes the driver pgx, which is there wherever a server is.
func Occupy(t testing.TB, dsn string, keys ...advisorylock.Key) *sql.Tx {
	t.Helper()
	tx := Begin(t, Open(t, "pgx", dsn))
	for _, key := range keys {
		Exec(t, tx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", key))
	}
	return tx
}

// AwaitWaiters waits until so many sessions of the database of db wait for key.
func AwaitWaiters(t testing.TB, db Querier, key advisorylock.Key, want int) {
	t.Helper()
	await.Until(t, fmt.Sprintf("%d waiters for key %d", want, key), func() error {
		got := Ask[int](t, db, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objsubid = 1
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND ((classid::bigint << 32) | objid::bigint) = $1`, int64(key))
		if got != want {
			return fmt.Errorf("got %d", got)
		}
		return nil
	})
}

// AskFence asks the server whether the lease of ctx is still there, in tx, until bound
// ends. [advisorylock.Fence] looks at ctx first, which a holder that was frozen may not
// have had the time for.
func AskFence(ctx, bound context.Context, tx *sql.Tx) error {
	check, err := fence.SQL(ctx)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(bound, check)
	return err
}
