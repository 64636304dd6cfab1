// Package plainsql runs migrations without any library, by a loop of
// statements and a table of versions, under the guard.
//
// Nothing locks here, and IF NOT EXISTS is no lock, so the whole migrate has to
// be serialized: Serialize, or UpToDate, which implies it.
package plainsql

import (
	"context"
	"database/sql"

	"github.com/bootlock/bootlock/schemaguard"
)

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard lets one process migrate; the others go on together when it is done.
var Guard = schemaguard.Guard{UpToDate: upToDate}

func upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	version, err := version(ctx, db)
	return version >= len(migrations), err
}

var migrations = []string{
	"CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL)",
	"CREATE TABLE posts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, body text NOT NULL)",
	"CREATE INDEX posts_user_id ON posts (user_id)",
}

// Migrate is the migration code as it was without the guard.
func Migrate(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS migrations (version int PRIMARY KEY)"); err != nil {
		return err
	}
	from, err := version(ctx, db)
	if err != nil {
		return err
	}
	for v := from; v < len(migrations); v++ {
		if err := step(ctx, db, v); err != nil {
			return err
		}
	}
	return nil
}

func version(ctx context.Context, db *sql.DB) (v int, err error) {
	err = db.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM migrations").Scan(&v)
	return v, err
}

func step(ctx context.Context, db *sql.DB, v int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	if _, err := tx.ExecContext(ctx, migrations[v]); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO migrations VALUES ($1)", v+1); err != nil {
		return err
	}
	return tx.Commit()
}
