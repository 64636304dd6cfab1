// Package start is the start-up with the guard.
package start

import (
	"context"
	"database/sql"

	"github.com/bootlock/bootlock/schemaguard"
)

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return schemaguard.Migrate(ctx, db, "app", migrate)
}

func migrate(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.users (id bigserial PRIMARY KEY)")
	return err
}
