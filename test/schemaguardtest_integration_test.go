package test

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/schemaguard/schemaguardtest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// bootstrapOf returns code that executes statements, in which %s is the schema.
func bootstrapOf(statements ...string) func(ctx context.Context, db *sql.DB, schema string) error {
	return func(ctx context.Context, db *sql.DB, schema string) error {
		for _, s := range statements {
			if _, err := db.ExecContext(ctx, strings.ReplaceAll(s, "%s", schema)); err != nil {
				return err
			}
		}
		return nil
	}
}

var schemaAndTable = bootstrapOf("CREATE SCHEMA IF NOT EXISTS %s", "CREATE TABLE IF NOT EXISTS %s.t (id bigserial PRIMARY KEY)")

// The kit that users are given, on a real server: it sees CREATE SCHEMA IF NOT
// EXISTS lose the race against itself, and the guard win it. Without the guard nearly
// every round fails, 58 of 60 when counted, so that five are enough.
func TestRaceOfUsers(t *testing.T) {
	dsn := pgtest.Shared(t).NewDB(t)
	open := func(driver string) func() (*sql.DB, error) {
		return func() (*sql.DB, error) { return sql.Open(driver, dsn) }
	}
	t.Run("schema only", func(t *testing.T) {
		schemaguardtest.Race{Rounds: 5}.Run(t, open("pgx"), bootstrapOf("CREATE SCHEMA IF NOT EXISTS %s"))
	})
	t.Run("whole migrate", func(t *testing.T) {
		schemaguardtest.Race{Rounds: 5, Guard: schemaguard.Guard{Serialize: true}}.Run(t, open("postgres"), schemaAndTable)
	})
	left := sqltest.Ask[int](t, sqltest.Open(t, "pgx", dsn), `SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname LIKE 'race\_%'`)
	if left != 0 {
		t.Errorf("%d schemas are left behind", left)
	}
}

// Code whose schema has a fixed name is raced too, on databases of its own. Without the
// guard all of 16 rounds failed when counted.
func TestRaceOfUsersOnDatabases(t *testing.T) {
	server := pgtest.Shared(t)
	race := schemaguardtest.Race{Rounds: 2, Guard: schemaguard.Guard{Serialize: true}}
	for schema, tc := range map[string]struct {
		driver string
		boot   func(ctx context.Context, db *sql.DB, schema string) error
	}{
		"app":    {"pgx", schemaAndTable},
		"public": {"postgres", bootstrapOf("CREATE TABLE IF NOT EXISTS t (id bigserial PRIMARY KEY)")},
	} {
		t.Run(schema, func(t *testing.T) {
			open := func(database string) (*sql.DB, error) { return sql.Open(tc.driver, server.DSNFor(database)) }
			race.RunDatabases(t, open, schema, func(ctx context.Context, db *sql.DB) error { return tc.boot(ctx, db, schema) })
		})
	}
}
