package peers

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// openXact is the floor: nothing that takes a lock and gives it back can send less.
func openXact(_ context.Context, db *sql.DB) (Lock, func() error, error) {
	take := fmt.Sprintf("SELECT pg_catalog.pg_advisory_xact_lock(%d)", Key)
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after the commit there is nothing to roll back
		if _, err := tx.ExecContext(ctx, take); err != nil {
			return err
		}
		if err := fn(ctx); err != nil {
			return err
		}
		return tx.Commit()
	}, none, nil
}

func openBlocking(_ context.Context, db *sql.DB) (Lock, func() error, error) {
	return onConn(db, exec("SELECT pg_advisory_lock(%d)"), exec("SELECT pg_advisory_unlock(%d)")), none, nil
}

func exec(statement string) func(ctx context.Context, conn *sql.Conn) error {
	statement = fmt.Sprintf(statement, Key)
	return func(ctx context.Context, conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, statement)
		return err
	}
}

func openPolling(_ context.Context, db *sql.DB) (Lock, func() error, error) {
	ask := fmt.Sprintf("SELECT pg_try_advisory_lock(%d)", Key)
	poll := func(ctx context.Context, conn *sql.Conn) error {
		for {
			var locked bool
			if err := conn.QueryRowContext(ctx, ask).Scan(&locked); err != nil || locked {
				return err
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return onConn(db, poll, exec("SELECT pg_advisory_unlock(%d)")), none, nil
}
