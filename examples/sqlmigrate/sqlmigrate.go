// Package sqlmigrate runs sql-migrate under the guard.
//
// sql-migrate has no lock on PostgreSQL, so the whole migrate has to be
// serialized: Serialize, or UpToDate, which implies it.
package sqlmigrate

import (
	"context"
	"database/sql"
	"embed"

	migrate "github.com/rubenv/sql-migrate"

	"github.com/bootlock/bootlock/schemaguard"
)

//go:embed migrations
var files embed.FS

var source = &migrate.EmbedFileSystemMigrationSource{FileSystem: files, Root: "migrations"}

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard lets one process migrate; the others go on together when it is done.
var Guard = schemaguard.Guard{UpToDate: upToDate}

// upToDate asks sql-migrate itself. Planning only reads with
// DisableCreateTable; without it, it creates the table of migrations first,
// unguarded.
func upToDate(_ context.Context, db *sql.DB) (bool, error) {
	look := migrate.MigrationSet{DisableCreateTable: true}
	plan, _, err := look.PlanMigration(db, "postgres", source, migrate.Up, 0)
	return len(plan) == 0, err
}

// Migrate is the README's.
func Migrate(ctx context.Context, db *sql.DB) error {
	_, err := migrate.ExecContext(ctx, db, "postgres", source, migrate.Up)
	return err
}
