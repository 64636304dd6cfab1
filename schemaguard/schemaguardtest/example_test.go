package schemaguardtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/schemaguard/schemaguardtest"
)

// start is the code under test.
func start(ctx context.Context, db *sql.DB) error {
	return schemaguard.Ensure(ctx, db, "app", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.users (id bigint)")
		return err
	})
}

// Expectations for what migrate sends come after those of Ensure.
func ExampleExpectEnsure() {
	db, mock, _ := sqlmock.New()

	order := schemaguardtest.ExpectEnsure(mock, "app")
	mock.ExpectExec("CREATE TABLE IF NOT EXISTS app.users").WillReturnResult(sqlmock.NewResult(0, 0))

	fmt.Println(start(context.Background(), db), mock.ExpectationsWereMet())
	fmt.Println(order)
	// Output:
	// <nil> <nil>
	// connect > begin > lock > create schema > commit > release > migrate
}

// guard is the Guard of the code under test.
var guard = schemaguard.Guard{
	Once:  "v1", // in a program, schemaguard.HashFS of the migrations
	Owner: "app_owner",
	Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "GRANT USAGE ON SCHEMA app TO app_reader")
		return err
	},
}

// migrations are those of the code under test.
func migrations(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE app.users (id bigint)")
	return err
}

// With options, a Scene says what the functions of the code under test send.
func ExampleExpectGuard() {
	db, mock, _ := sqlmock.New()

	order := schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{
		Bootstrap: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("GRANT USAGE").WillReturnResult(sqlmock.NewResult(0, 0))
		},
		Migrate: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("CREATE TABLE").WillReturnResult(sqlmock.NewResult(0, 0))
		},
	})

	fmt.Println(guard.Ensure(context.Background(), db, "app", migrations), mock.ExpectationsWereMet())
	fmt.Println(strings.ReplaceAll(order, " > connect", "\n> connect"))
	// Output:
	// <nil> <nil>
	// up to date
	// > connect > begin > lock > create schema > bootstrap > commit > release
	// > connect > begin > lock > up to date > migrate > record > commit > release
}

// The migrations have run: the start is one statement.
func ExampleScene_secondStart() {
	db, mock, _ := sqlmock.New()

	order := schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{Ran: true})

	fmt.Println(guard.Ensure(context.Background(), db, "app", migrations), mock.ExpectationsWereMet())
	fmt.Println(order)
	// Output:
	// <nil> <nil>
	// up to date
}

// A migration that fails. Nothing is recorded, so that the next start tries again.
func ExampleScene_migrateFails() {
	db, mock, _ := sqlmock.New()

	order := schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{
		Exists: true,
		Bootstrap: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("GRANT USAGE").WillReturnResult(sqlmock.NewResult(0, 0))
		},
		Migrate: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("CREATE TABLE").WillReturnError(errors.New("disk full"))
		},
		Fail: locktrace.Migrate,
	})

	fmt.Println(guard.Ensure(context.Background(), db, "app", migrations))
	fmt.Println(mock.ExpectationsWereMet())
	fmt.Println(strings.ReplaceAll(order, " > connect", "\n> connect"))
	// Output:
	// schemaguard.Ensure app: migrate: disk full
	// <nil>
	// up to date
	// > connect > begin > lock > create schema > bootstrap > commit > release
	// > connect > begin > lock > up to date > migrate! > rollback > release
}

// The second lock of this start, that of migrate, fails as it does when the server
// shuts down: migrate is not called.
func ExampleScene_failingStep() {
	db, mock, _ := sqlmock.New()

	schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{
		Bootstrap: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("GRANT USAGE").WillReturnResult(sqlmock.NewResult(0, 0))
		},
		Fail:      locktrace.Lock,
		FailAfter: 1, // the schema's own lock succeeds
		Err:       errors.New("the server is shutting down"),
	})

	fmt.Println(guard.Ensure(context.Background(), db, "app", migrations))
	fmt.Println(mock.ExpectationsWereMet())
	// Output:
	// schemaguard.Ensure app: lock: the server is shutting down
	// <nil>
}

// A mock in the wrapper of a tracer cannot be seen to be one.
func ExampleMock() {
	db, mock, _ := sqlmock.New() // in a test, with otelsql or the like around it
	defer schemaguardtest.Mock(db)()

	schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{Ran: true})
	fmt.Println(guard.Ensure(context.Background(), db, "app", migrations))
	// Output: <nil>
}

// Package advisorylock needs no kit. A mock grants a lock by one row, and by none it
// tells a Try that somebody has it.
func Example_tryHold() {
	db, mock, _ := sqlmock.New()

	for _, rows := range []int64{1, 0} {
		mock.ExpectBegin()
		mock.ExpectExec("pg_advisory_xact_lock").WillReturnResult(sqlmock.NewResult(0, rows))
		if rows == 1 {
			mock.ExpectCommit()
		} else {
			mock.ExpectRollback()
		}
		err := advisorylock.TryHold(context.Background(), db, 42, func(context.Context) error {
			fmt.Println("working")
			return nil
		})
		fmt.Println(err, errors.Is(err, advisorylock.ErrNotAcquired), mock.ExpectationsWereMet())
	}
	// Output:
	// working
	// <nil> false <nil>
	// advisorylock.TryHold 42: lock: advisorylock: somebody else has the lock true <nil>
}

// A Recorder in the Guard's Trace sees what sqlmock does not: that the
// connection is released before migrate runs.
func ExampleCheckOrder() {
	var t printer // the *testing.T of your test
	db, mock, _ := sqlmock.New()
	order := schemaguardtest.ExpectEnsure(mock, "app")

	var rec locktrace.Recorder
	guard := schemaguard.Guard{Trace: rec.Trace()}
	if err := guard.Ensure(context.Background(), db, "app", func(context.Context, *sql.DB) error { return nil }); err != nil {
		fmt.Println(err)
	}
	schemaguardtest.CheckOrder(t, &rec, order) // says nothing
	schemaguardtest.CheckOrder(t, &rec, "connect > begin > create schema > commit > release > migrate")
	// Output:
	// step 3 is lock; want create schema
	// got  connect > begin > lock > create schema > commit > release > migrate
	// want connect > begin > create schema > commit > release > migrate
}

// printer stands for the *testing.T that an example does not have.
type printer struct{ schemaguardtest.TB }

func (printer) Helper()                           {}
func (printer) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// Does this bootstrap code lose the race on this database, and does the guard
// cure it? The code has no lock of its own, and needs Serialize.
func ExampleRace() {
	_ = func(t *testing.T) { // a test of your own
		open := func() (*sql.DB, error) { return sql.Open("pgx", os.Getenv("TEST_DSN")) }
		boot := func(ctx context.Context, db *sql.DB, schema string) error {
			_, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+schema)
			if err != nil {
				return err
			}
			_, err = db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS "+schema+".users (id bigint)")
			return err
		}
		schemaguardtest.Race{Guard: schemaguard.Guard{Serialize: true}}.Run(t, open, boot)
	}
}

// Code that works in public, or in a schema whose name is fixed, is raced on
// databases of its own.
func ExampleRace_RunDatabases() {
	_ = func(t *testing.T) { // a test of your own
		open := func(database string) (*sql.DB, error) {
			return sql.Open("pgx", "host=localhost user=postgres dbname="+database)
		}
		boot := func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS users (id bigint)")
			return err
		}
		schemaguardtest.Race{Guard: schemaguard.Guard{Serialize: true}}.RunDatabases(t, open, "public", boot)
	}
}
