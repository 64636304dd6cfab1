// Command after is the program with the guard. A loop of db.Exec takes no lock,
// so one process at a time has to run it.
package main

import (
	"context"
	"database/sql"
	"log"
	"os"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
	_ "github.com/lib/pq"
)

var migrations = []string{
	"CREATE SCHEMA IF NOT EXISTS app",
	"CREATE TABLE IF NOT EXISTS app.users (id bigserial PRIMARY KEY, name text NOT NULL)",
	"ALTER TABLE app.users ADD COLUMN IF NOT EXISTS email text",
	"CREATE INDEX IF NOT EXISTS users_email ON app.users (email)",
}

func migrate(ctx context.Context, db *sql.DB) error {
	for _, m := range migrations {
		if _, err := db.ExecContext(ctx, m); err != nil {
			return err
		}
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
	if err := schemaguard.Migrate(ctx, db, "app", migrate); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
