// Package goose runs goose's Provider under the guard.
//
// A Provider takes no lock unless it is given one, so the whole migrate has to be
// serialized: Serialize, or UpToDate, which implies it. With a session locker
// [schemaguard.Ensure] is enough, but that locker tries every 5 s only.
package goose

import (
	"context"
	"database/sql"
	"embed"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

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

// upToDate asks the version table itself. Not provider.HasPending, which
// creates that table if it is missing, takes no lock for that even if there is
// a locker, and after a clash tries again a second later.
func upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	var done bool
	err := db.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) >= 3 FROM goose_db_version").Scan(&done)
	return done, err
}

// Migrate is the README's.
func Migrate(ctx context.Context, db *sql.DB) error { return up(ctx, db) }

// MigrateWithSessionLocker is the README's too.
func MigrateWithSessionLocker(ctx context.Context, db *sql.DB) error {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return err
	}
	return up(ctx, db, goose.WithSessionLocker(locker))
}

// MigrateWithTableLocker has goose's other locker, a row in a table.
func MigrateWithTableLocker(ctx context.Context, db *sql.DB) error {
	locker, err := lock.NewPostgresTableLocker()
	if err != nil {
		return err
	}
	return up(ctx, db, goose.WithLocker(locker))
}

func up(ctx context.Context, db *sql.DB, options ...goose.ProviderOption) error {
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations, options...)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}
