// Command before is a program in the old style: lib/pq, and migrations in a loop
// of db.Exec at each start.
package main

import (
	"database/sql"
	"log"
	"os"

	_ "github.com/lib/pq"
)

var migrations = []string{
	"CREATE SCHEMA IF NOT EXISTS app",
	"CREATE TABLE IF NOT EXISTS app.users (id bigserial PRIMARY KEY, name text NOT NULL)",
	"ALTER TABLE app.users ADD COLUMN IF NOT EXISTS email text",
	"CREATE INDEX IF NOT EXISTS users_email ON app.users (email)",
}

func migrate(db *sql.DB) error {
	for _, m := range migrations {
		if _, err := db.Exec(m); err != nil {
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
	if err := migrate(db); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
