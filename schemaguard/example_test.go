package schemaguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// open stands for sql.Open("pgx", dsn) or sql.Open("postgres", dsn).
func open() *sql.DB {
	var ran atomic.Bool
	d := recdriver.New()
	d.OnExec(func(c recdriver.Call) (int64, error) {
		switch {
		case strings.HasPrefix(c.Query, "INSERT INTO"):
			ran.Store(true)
		case strings.Contains(c.Query, "bootlock_once WHERE") && !ran.Load():
			return 0, nil
		}
		return 1, nil
	})
	return d.OpenDB()
}

//go:embed testdata/migrations
var embedded embed.FS

// migrations are the files of what this program embeds.
var migrations, _ = fs.Sub(embedded, "testdata/migrations")

// up stands for the migration library.
func up(context.Context, *sql.DB) error {
	fmt.Println("migrating")
	return nil
}

// Once per build and fleet: the first start migrates, in one process, and later ones
// are one round trip. A deadline and a log say what a start waits for, and end it if
// that takes too long.
func ExampleGuard() {
	db := open()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	guard := schemaguard.Guard{
		Once:  schemaguard.HashFS(migrations),
		Trace: locktrace.Log(nil),
	}
	fmt.Println("first start:", guard.Ensure(ctx, db, "app", up))
	fmt.Println("second start:", guard.Ensure(ctx, db, "app", up))
	// Output:
	// migrating
	// first start: <nil>
	// second start: <nil>
}

// The name changes with every file that the program embeds.
func ExampleHashFS() {
	fmt.Println(schemaguard.HashFS(migrations))
	// Output: e773dbe6e8ffa717
}

// UpToDate asks a question of your own instead, where the migration library knows its
// version. This one refuses to start on a schema that is newer than the build; leave
// that out if old processes may restart during a rolling deploy.
func ExampleGuard_upToDate() {
	db, setVersion := openVersioned()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

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
		return []string{"version"}, [][]driver.Value{{version.Load()}}, nil
	})
	return d.OpenDB(), version.Store
}

// A worker waits until another process has migrated.
func ExampleGuard_Await() {
	db := open()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	guard := schemaguard.Guard{Once: schemaguard.HashFS(migrations)}
	go func() { // another process
		_ = guard.Ensure(ctx, db, "app", func(context.Context, *sql.DB) error { return nil })
	}()
	if err := guard.Await(ctx, db, "app"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("working")
	// Output: working
}

// Migrations go through a pooler; the locks go to the server.
func ExampleGuard_lockDB() {
	server := recdriver.NewServer()
	db, direct := server.Driver(recdriver.PGX).OpenDB(), server.Driver(recdriver.PGX).OpenDB() // by DSNs of their own
	defer db.Close()
	defer direct.Close()
	direct.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	guard := schemaguard.Guard{LockDB: direct, Serialize: true}
	fmt.Println(guard.Ensure(ctx, db, "app", up))
	// Output:
	// migrating
	// <nil>
}

// The schema is there nearly always, and its lock need not be taken to see that.
func ExampleGuard_skipIfExists() {
	db := open()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var steps locktrace.Recorder
	guard := schemaguard.Guard{SkipIfExists: true, Trace: steps.Trace()}
	fmt.Println(guard.Ensure(ctx, db, "app", up))
	fmt.Println(&steps)
	// Output:
	// migrating
	// <nil>
	// connect > look > release > migrate
}

// Bootstrap is for the statements that every process sends: they run in the
// schema's own transaction, under its lock.
func ExampleGuard_bootstrap() {
	db := open()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	guard := schemaguard.Guard{
		Owner: "app_owner",
		Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "GRANT USAGE ON SCHEMA app TO reader")
			return err
		},
	}
	fmt.Println(guard.Ensure(ctx, db, "app", nil))
	// Output: <nil>
}

// Every process runs the migrations, one at a time.
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

// A failed start says at which step, and errors.Is tells what can be done about it.
func ExampleMigrate_errors() {
	db := open()
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	err := schemaguard.Migrate(ctx, db, "app", up)
	var failed *locktrace.StepError
	var waited *advisorylock.WaitError
	switch {
	case errors.As(err, &waited): // ctx ended
		fmt.Println("in the way:", waited.Holders)
	case errors.Is(err, advisorylock.ErrLost): // another process may migrate now
		fmt.Println("start again")
	case errors.Is(err, advisorylock.ErrPoolTooSmall):
		fmt.Println("the pool needs two connections")
	}
	if errors.As(err, &failed) {
		fmt.Println("failed at:", failed.Step)
	}
	// Output:
	// the pool needs two connections
	// failed at: connect
}

// A library that locks by itself, as golang-migrate and tern do, needs nothing
// but the schema from the guard.
func ExampleEnsure() {
	db := open()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	err := schemaguard.Ensure(ctx, db, "app", func(context.Context, *sql.DB) error {
		fmt.Println("m.Up()") // of golang-migrate
		return nil
	})
	fmt.Println(err)
	// Output:
	// m.Up()
	// <nil>
}

// The keys are the same for ever, so that psql or another program can take the
// same locks.
func ExampleKeyFor() {
	fmt.Println("creating app:", schemaguard.KeyFor("app"))
	// Output: creating app: -7534435102854613731
}

// What migrates app at this moment, if anything does.
func ExampleMigrateKey() {
	db := open()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	key := schemaguard.MigrateKey(schemaguard.KeyFor("app"))
	sessions, err := advisorylock.Sessions(ctx, db, key)
	fmt.Println(key, len(sessions), err)
	// Output: -3294079554091031830 0 <nil>
}
