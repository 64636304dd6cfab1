// Package golangmigrate runs golang-migrate under the guard.
//
// golang-migrate has a lock of its own, pg_advisory_lock around its version
// table and around Up, so three ordinary migrations need no more than
// [schemaguard.Ensure]: only the schema is unguarded. The Guard here asks for
// more, since that lock has two weak points: a process that waits for it longer
// than 15 s gives up, and it deadlocks with CREATE INDEX CONCURRENTLY
// ([MigrateSlowly] and [MigrateConcurrently] show both).
package golangmigrate

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"

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

// upToDate asks the version table itself. Not m.Version: to make an m is to
// wait for golang-migrate's lock and to create that table.
func upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	var done bool
	err := db.QueryRowContext(ctx, "SELECT count(*) = 1 FROM schema_migrations WHERE version >= 3 AND NOT dirty").Scan(&done)
	return done, err
}

// Migrate is the migration code as it was without the guard.
func Migrate(ctx context.Context, db *sql.DB) error { return up(ctx, db, files, "migrations") }

// up is golang-migrate's README, but for WithConnection: WithInstance would
// keep a connection for good, and m.Close would then close the whole pool. It
// works with pgx's *sql.DB just as well as with lib/pq's.
func up(ctx context.Context, db *sql.DB, files fs.FS, dir string) error {
	source, err := iofs.New(files, dir)
	if err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	driver, err := postgres.WithConnection(ctx, conn, &postgres.Config{})
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("iofs", source, "postgres", driver)
	if err != nil {
		return err
	}
	// Up takes no context. If the lease is lost, it is to stop after the
	// migration at hand, and then returns nil.
	defer context.AfterFunc(ctx, func() { m.GracefulStop <- true })()
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return err
	}
	return context.Cause(ctx)
}
