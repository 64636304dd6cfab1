package peers

import (
	"context"
	"database/sql"
	"errors"
	"io"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source"
	"github.com/golang-migrate/migrate/v4/source/stub"
)

// openGolangMigrate runs golang-migrate itself, over its own driver for PostgreSQL,
// with one migration that is due every time: its lock and the 15 s that it waits for
// it are in different places, and cannot be had alone.
func openGolangMigrate(ctx context.Context, db *sql.DB) (Lock, func() error, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, nil, err
	}
	driver, err := postgres.WithConnection(ctx, conn, &postgres.Config{})
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	due := &alwaysDue{Postgres: driver}
	migrations := &stub.Stub{Migrations: source.NewMigrations()}
	migrations.Migrations.Append(&source.Migration{Version: 1, Identifier: "fn", Direction: source.Up})
	m, err := migrate.NewWithInstance("stub", migrations, "postgres", due)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		due.run = func() error { return fn(ctx) }
		return m.Up()
	}, conn.Close, nil
}

// alwaysDue is the driver of a database without migrations, whose only one is run.
type alwaysDue struct {
	*postgres.Postgres
	run func() error
}

func (d *alwaysDue) Run(io.Reader) error       { return d.run() }
func (*alwaysDue) Version() (int, bool, error) { return -1, false, nil }
func (*alwaysDue) SetVersion(int, bool) error  { return nil }
