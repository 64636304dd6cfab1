// Package goose runs goose's Provider under the guard.
//
// A Provider has no lock unless it is given one, so the whole migrate has to be
// serialised: Serialize, or UpToDate, which implies it. (With a session locker
// it needs no more than [schemaguard.Ensure], but that locker polls every 5 s.)
package goose

import (
	"context"
	"database/sql"
	"embed"
	"io/fs"

	"github.com/pressly/goose/v3"

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
func Migrate(ctx context.Context, db *sql.DB) error {
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}
