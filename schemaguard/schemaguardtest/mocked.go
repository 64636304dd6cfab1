package schemaguardtest

import (
	"database/sql"
	"sync"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/bootlock/bootlock/internal/mocked"
)

// mocks are the pools that [Mock] was told of, and those on which a guard is played
// for ExpectGuard: what it is sent there has to be what a mock will be sent.
var mocks sync.Map

// Mock says that db is a mock, until forget is called. It is for a sqlmock
// in the wrapper of a tracer, such as otelsql or sqlmw, which hides what it is: with
// one that is not known, [ExpectGuard] expects another number in the lock of migrate
// than is sent, and heartbeats are sent that no mock expects.
//
//	t.Cleanup(schemaguardtest.Mock(db))
func Mock(db *sql.DB) (forget func()) {
	mocks.Store(db, nil)
	return func() { mocks.Delete(db) }
}

// All mocks share one driver, whose type has no name outside sqlmock.
func init() {
	db, mock, err := sqlmock.New()
	if err != nil {
		return
	}
	driver := db.Driver()
	mock.ExpectClose()
	_ = db.Close()
	mocked.Register(func(db *sql.DB) bool {
		_, known := mocks.Load(db)
		return known || db.Driver() == driver
	})
}
