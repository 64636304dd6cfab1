// Command before runs a goose Provider at its start.
package main

import (
	"context"
	"database/sql"
	"log"
	"os"
	"testing/fstest"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// migrations stand for a folder that is embedded.
var migrations = fstest.MapFS{
	"1_users.sql": {Data: []byte("-- +goose Up\nCREATE TABLE users (id bigserial PRIMARY KEY, name text NOT NULL);")},
	"2_index.sql": {Data: []byte("-- +goose Up\nCREATE INDEX users_name ON users (name);")},
}

func migrate(ctx context.Context, db *sql.DB) error {
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

func main() {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	if err := migrate(context.Background(), db); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
