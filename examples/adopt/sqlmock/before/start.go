// Package start is a start-up that is tested with sqlmock.
package start

import (
	"context"
	"database/sql"
)

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS app"); err != nil {
		return err
	}
	return migrate(ctx, db)
}

func migrate(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.users (id bigserial PRIMARY KEY)")
	return err
}
