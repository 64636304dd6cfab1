package schemaguardtest_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"

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

// Expectations for what migrate sends, if any, come after those for Ensure.
func ExampleExpectEnsure() {
	db, mock, _ := sqlmock.New()

	schemaguardtest.ExpectEnsure(mock, "app")
	mock.ExpectExec("CREATE TABLE IF NOT EXISTS app.users").WillReturnResult(sqlmock.NewResult(0, 0))
	fmt.Println(start(context.Background(), db), mock.ExpectationsWereMet())
	// Output: <nil> <nil>
}

// guard is the Guard of the code under test.
var guard = schemaguard.Guard{
	Owner:     "app_owner",
	Serialize: true,
	Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "GRANT USAGE ON SCHEMA app TO app_reader")
		return err
	},
}

// With options the test says, by a Scene, what the functions of its own send.
func ExampleExpectGuard() {
	db, mock, _ := sqlmock.New()

	schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{
		Bootstrap: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("GRANT USAGE").WillReturnResult(sqlmock.NewResult(0, 0))
		},
		Migrate: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("CREATE TABLE").WillReturnResult(sqlmock.NewResult(0, 0))
		},
	})

	err := guard.Ensure(context.Background(), db, "app", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.users (id bigint)")
		return err
	})
	fmt.Println(err, mock.ExpectationsWereMet())
	// Output: <nil> <nil>
}

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
