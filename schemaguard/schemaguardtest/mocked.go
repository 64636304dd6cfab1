package schemaguardtest

import (
	"database/sql"
	"sync"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/bootlock/bootlock/internal/mocked"
)

// players are the pools on which a guard is played for ExpectGuard: what it is
// sent there has to be what a mock will be sent.
var players sync.Map

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
		_, player := players.Load(db)
		return player || db.Driver() == driver
	})
}
