// Package tern runs tern under the guard.
//
// tern has a lock of its own, pg_advisory_lock around its version table and
// around Migrate, so ordinary migrations need no more than
// [schemaguard.Ensure]: only the schema is unguarded. With a CREATE INDEX
// CONCURRENTLY among them that lock deadlocks (see package golangmigrate), and
// the whole migrate has to be serialized. The Guard here does that, and saves
// the others their turn.
package tern

import (
	"context"
	"database/sql"
	"embed"
	"io/fs"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jackc/tern/v2/migrate"

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

// upToDate asks the version table itself. Not m.GetCurrentVersion: to make an m
// is to wait for tern's lock and to create that table.
func upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	var done bool
	err := db.QueryRowContext(ctx, "SELECT version >= 3 FROM schema_version").Scan(&done)
	return done, err
}

// Migrate is the README's, on a connection of the pool.
func Migrate(ctx context.Context, db *sql.DB) error {
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(c any) error {
		m, err := migrate.NewMigrator(ctx, c.(*stdlib.Conn).Conn(), "schema_version")
		if err != nil {
			return err
		}
		if err := m.LoadMigrations(migrations); err != nil {
			return err
		}
		return m.Migrate(ctx)
	})
}
