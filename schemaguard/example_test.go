package schemaguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// open stands for sql.Open("pgx", dsn) or sql.Open("postgres", dsn).
func open() *sql.DB { return recdriver.New().OpenDB() }

// One process at a time runs the migrations. A deadline and a log say what a
// start waits for, and end it if that takes too long.
func ExampleMigrate() {
	db := open()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	err := schemaguard.Migrate(ctx, db, "app", func(ctx context.Context, db *sql.DB) error {
		for _, statement := range []string{
			"CREATE TABLE IF NOT EXISTS app.users (id bigint PRIMARY KEY, name text)",
			"CREATE INDEX CONCURRENTLY IF NOT EXISTS users_name ON app.users (name)",
		} {
			if _, err := db.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		fmt.Println("migrated")
		return nil
	})
	fmt.Println(err)
	// Output:
	// migrated
	// <nil>
}

// A library that locks by itself, as golang-migrate and tern do, needs nothing
// but the schema from the guard.
func ExampleEnsure() {
	db := open()
	defer db.Close()

	err := schemaguard.Ensure(context.Background(), db, "app", func(context.Context, *sql.DB) error {
		fmt.Println("m.Up()") // of golang-migrate
		return nil
	})
	fmt.Println(err)
	// Output:
	// m.Up()
	// <nil>
}

// A Guard with the options that a start usually needs.
func ExampleGuard() {
	db := open()
	defer db.Close()

	var steps locktrace.Recorder
	guard := schemaguard.Guard{
		Owner:     "app_owner",
		Serialize: true,
		Trace:     steps.Trace(), // in a program, locktrace.Log(nil)
	}
	err := guard.Ensure(context.Background(), db, "app", func(context.Context, *sql.DB) error { return nil })
	fmt.Println(err)
	fmt.Println(strings.Replace(steps.String(), "release > connect", "release >\nconnect", 1))
	// Output:
	// <nil>
	// connect > begin > lock > create schema > commit > release >
	// connect > begin > lock > migrate > commit > release
}

// UpToDate makes it once per fleet: the first start migrates, the second takes
// no lock at all. A version that this build does not know ends the start.
func ExampleGuard_upToDate() {
	db, setVersion := openVersioned()
	defer db.Close()

	const version = 3 // of the schema that this build needs
	guard := schemaguard.Guard{
		UpToDate: func(ctx context.Context, db *sql.DB) (bool, error) {
			var have int
			err := db.QueryRowContext(ctx, "SELECT COALESCE(max(version), 0) FROM app.migrations").Scan(&have)
			if err == nil && have > version {
				err = fmt.Errorf("the schema has version %d, newer than this build's %d", have, version)
			}
			return have >= version, err
		},
	}
	migrate := func(context.Context, *sql.DB) error {
		fmt.Println("migrating")
		setVersion(version)
		return nil
	}
	ctx := context.Background()
	fmt.Println("first start:", guard.Ensure(ctx, db, "app", migrate))
	fmt.Println("second start:", guard.Ensure(ctx, db, "app", migrate))
	setVersion(4)
	fmt.Println("after a newer build:", guard.Ensure(ctx, db, "app", migrate))
	// Output:
	// migrating
	// first start: <nil>
	// second start: <nil>
	// after a newer build: schemaguard.Ensure app: up to date: the schema has version 4, newer than this build's 3
}

// openVersioned stands for a database with a table of versions.
func openVersioned() (db *sql.DB, setVersion func(int64)) {
	var version atomic.Int64
	d := recdriver.New()
	d.OnQuery(func(c recdriver.Call) ([]string, [][]driver.Value, error) {
		if !strings.Contains(c.Query, "app.migrations") {
			return nil, nil, nil // nobody has a lock
		}
		return []string{"version"}, [][]driver.Value{{version.Load()}}, nil
	})
	return d.OpenDB(), version.Store
}

// A worker waits until another process has migrated.
func ExampleGuard_Await() {
	db, setVersion := openVersioned()
	defer db.Close()

	guard := schemaguard.Guard{
		UpToDate: func(ctx context.Context, db *sql.DB) (bool, error) {
			var have int
			err := db.QueryRowContext(ctx, "SELECT COALESCE(max(version), 0) FROM app.migrations").Scan(&have)
			return have >= 3, err
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go setVersion(3) // in another process, by guard.Ensure
	if err := guard.Await(ctx, db, "app"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("working")
	// Output: working
}

// Bootstrap is for the statements that every process sends: they run in the
// schema's own transaction, under its lock.
func ExampleGuard_bootstrap() {
	db := open()
	defer db.Close()

	guard := schemaguard.Guard{
		Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "GRANT USAGE ON SCHEMA app TO reader")
			return err
		},
	}
	fmt.Println(guard.Ensure(context.Background(), db, "app", nil))
	// Output: <nil>
}

// The keys are the same for ever, so that psql or another program can take the
// same locks.
func ExampleKeyFor() {
	key := schemaguard.KeyFor("app")
	fmt.Println("creating app:", key)
	fmt.Println("migrating it:", schemaguard.MigrateKey(key))
	// Output:
	// creating app: -7534435102854613731
	// migrating it: -3294079554091031830
}
