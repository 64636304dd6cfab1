// Command after is the program with the guard: a Provider takes no lock unless it
// is given one. It runs once in the fleet for each set of migrations.
package main

import (
	"context"
	"database/sql"
	"log"
	"os"
	"testing/fstest"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
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
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	guard := schemaguard.Guard{Once: schemaguard.HashFS(migrations)}
	if err := guard.Ensure(ctx, db, "public", migrate); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
