// Package bun runs bun's migrations under the guard.
//
// bun's Lock is a row in a table that Init creates without a lock; nobody waits
// for it, and it survives a crash. So the whole migrate has to be serialized:
// Serialize, or UpToDate, which implies it; and bun's Lock is left out.
package bun

import (
	"context"
	"database/sql"
	"embed"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/migrate"

	"github.com/bootlock/bootlock/schemaguard"
)

//go:embed migrations
var files embed.FS

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard lets one process migrate; the others go on together when it is done.
var Guard = schemaguard.Guard{UpToDate: upToDate}

// upToDate asks bun itself: MigrationsWithStatus only reads.
func upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	migrator, err := migrator(db)
	if err != nil {
		return false, err
	}
	all, err := migrator.MigrationsWithStatus(ctx)
	return len(all.Unapplied()) == 0, err
}

// Migrate is the README's.
func Migrate(ctx context.Context, db *sql.DB) error {
	migrator, err := migrator(db)
	if err != nil {
		return err
	}
	if err := migrator.Init(ctx); err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx)
	return err
}

// migrator marks a migration as applied when it succeeded. bun's default is to
// mark it before it begins: upToDate would then say yes while the last one is
// still running, and ever after if it failed.
func migrator(db *sql.DB) (*migrate.Migrator, error) {
	migrations := migrate.NewMigrations()
	if err := migrations.Discover(files); err != nil {
		return nil, err
	}
	return migrate.NewMigrator(bun.NewDB(db, pgdialect.New()), migrations, migrate.WithMarkAppliedOnSuccess(true)), nil
}
