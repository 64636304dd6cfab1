package test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"testing"

	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/pgtest"
)

// A program in the old style: lib/pq, and migrations in a loop of db.Exec at
// each start. Three lines adopt the guard: the imports of context and
// schemaguard, and the call. A loop has no lock, so it needs Serialize.
func Example_legacy() {
	dsn, drop := emptyDatabase()
	defer drop()

	db, err := sql.Open("postgres", dsn)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	migrations := []string{
		"CREATE SCHEMA IF NOT EXISTS app",
		"CREATE TABLE IF NOT EXISTS app.users (id bigserial PRIMARY KEY, name text NOT NULL)",
		"ALTER TABLE app.users ADD COLUMN IF NOT EXISTS email text",
		"CREATE INDEX IF NOT EXISTS users_email ON app.users (email)",
	}
	migrate := func() error {
		for _, m := range migrations {
			if _, err := db.Exec(m); err != nil {
				return err
			}
		}
		return nil
	}

	// Before: if err := migrate(); err != nil {
	if err := (schemaguard.Guard{Serialize: true}).Ensure(context.Background(), db, "app", func(context.Context, *sql.DB) error { return migrate() }); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	// Output: ready
}

// emptyDatabase returns what os.Getenv("DATABASE_URL") stands for in a program.
func emptyDatabase() (dsn string, drop func()) {
	dsn, drop, err := pgtest.Shared(exampleTB{}).CreateDatabase(context.Background(), "example")
	if err != nil {
		log.Fatal(err)
	}
	return dsn, drop
}

// exampleTB is the testing.TB that an example does not have.
type exampleTB struct{ testing.TB }

func (exampleTB) Helper()                           {}
func (exampleTB) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }
