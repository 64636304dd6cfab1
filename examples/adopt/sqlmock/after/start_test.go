package start

import (
	"context"
	"errors"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/schemaguard/schemaguardtest"
)

var guard = schemaguard.Guard{Serialize: true} // that of schemaguard.Migrate

func TestStart(t *testing.T) {
	t.Parallel()
	db, mock, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{Migrate: expectMigrate})
	if err := Start(context.Background(), db); err != nil {
		t.Error(err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}

// A start that may not create the schema must say so, and not migrate.
func TestStartFails(t *testing.T) {
	t.Parallel()
	db, mock, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	denied := errors.New("permission denied")
	schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{Fail: "create schema", Err: denied})
	if err := Start(context.Background(), db); !errors.Is(err, denied) {
		t.Errorf("got %v; want %v", err, denied)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}

func expectMigrate(mock sqlmock.Sqlmock) {
	mock.ExpectExec("CREATE TABLE").WillReturnResult(sqlmock.NewResult(0, 0))
}
