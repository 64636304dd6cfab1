// Command before creates its schema and runs golang-migrate at its start.
package main

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"os"
	"testing/fstest"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"
)

// migrations stand for a folder that is embedded.
var migrations = fstest.MapFS{
	"1_users.up.sql": {Data: []byte("CREATE TABLE app.users (id bigserial PRIMARY KEY, name text NOT NULL)")},
	"2_index.up.sql": {Data: []byte("CREATE INDEX users_name ON app.users (name)")},
}

func migrateUp(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS app"); err != nil {
		return err
	}
	source, err := iofs.New(migrations, ".")
	if err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	driver, err := postgres.WithConnection(ctx, conn, &postgres.Config{SchemaName: "app"})
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("iofs", source, "postgres", driver)
	if err != nil {
		return err
	}
	if err := m.Up(); !errors.Is(err, migrate.ErrNoChange) {
		return err
	}
	return nil
}

func main() {
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	if err := migrateUp(context.Background(), db); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
