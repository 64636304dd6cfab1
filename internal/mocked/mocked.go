// Package mocked knows which pools are mocks. A mock answers what it was told to
// expect and nothing else: it cannot know a number that is drawn at random, nor
// when the next heartbeat is due. So with a mock the number is [Number], and no
// heartbeat is sent.
//
// Only package schemaguardtest calls [Register]. In a program that does not
// import it, no pool is a mock.
package mocked

import (
	"database/sql"
	"sync/atomic"
)

// Number stands for a random number in what a mock is sent.
const Number = 1

var isMock atomic.Pointer[func(db *sql.DB) bool]

// Register sets the function that tells mocks from servers.
func Register(is func(db *sql.DB) bool) { isMock.Store(&is) }

// Is reports whether db is a mock.
func Is(db *sql.DB) bool {
	is := isMock.Load()
	return is != nil && (*is)(db)
}
