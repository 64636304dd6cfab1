// Command after is the program with the guard. golang-migrate takes a lock of its
// own, so that only the schema was in danger: Ensure is enough.
package main

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"os"
	"testing/fstest"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
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
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := schemaguard.Ensure(ctx, db, "app", migrateUp); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
