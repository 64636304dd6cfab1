// Package slow runs golang-migrate with a migration that takes 20 seconds.
//
// With golang-migrate's own lock every other process gives up after 15 seconds
// ("can't acquire database lock") and dies, although nothing is wrong. Under a
// guard they wait for as long as their context allows. Serialize would do;
// UpToDate lets them go on together when the winner is done.
package slow

import (
	"context"
	"database/sql"
	"embed"

	"github.com/bootlock/bootlock/examples/golangmigrate"
	"github.com/bootlock/bootlock/schemaguard"
)

//go:embed migrations
var files embed.FS

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard has the latest version, as package golangmigrate's has.
var Guard = schemaguard.Guard{
	UpToDate: func(ctx context.Context, db *sql.DB) (bool, error) {
		var done bool
		err := db.QueryRowContext(ctx, "SELECT count(*) = 1 FROM schema_migrations WHERE version >= 2 AND NOT dirty").Scan(&done)
		return done, err
	},
}

// Migrate is the migration code as it was without the guard.
func Migrate(ctx context.Context, db *sql.DB) error { return golangmigrate.Up(ctx, db, files) }
