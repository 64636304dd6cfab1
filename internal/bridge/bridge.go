// Package bridge gives package schemaguard more of package advisorylock than that
// exports. advisorylock sets the functions when it is initialized.
package bridge

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// Call is one call: of Locker's options, and what goes beyond them.
type Call struct {
	Op    string // what errors begin with
	DB    *sql.DB
	Key   int64
	Name  string
	TTL   time.Duration
	Trace *locktrace.Trace
	Try   bool           // do not wait for the lock
	For   locktrace.Step // what the steps are for

	// Work, if not nil, is where the work under a lease is done: it begins only when
	// there is a connection for it.
	Work *sql.DB

	// Done, if not nil, is called whenever a waiter for a lease finds the lock free
	// again. If it returns true, there is nothing left to do, and the call returns
	// without the lock.
	Done func(ctx context.Context) (bool, error)

	// Record, if not nil, ends the transaction of a lease: what it executes is
	// committed together with the end of the lock. It is called if the work was done
	// and the lease alive to the end.
	Record func(ctx context.Context, exec Exec) error
}

// Exec executes a literal statement and returns the number of rows affected.
type Exec func(ctx context.Context, query string) (rows int64, err error)

// ErrNothing is what the work under a lease returns if there was nothing to do: the
// lease ends as after nil, and there is nothing to record.
var ErrNothing = errors.New("there is nothing to do")

// WithXactLock is advisorylock.WithXactLock.
var WithXactLock func(ctx context.Context, c Call, fn func(ctx context.Context, tx *sql.Tx) error) error

// Hold is advisorylock.Hold.
var Hold func(ctx context.Context, c Call, fn func(ctx context.Context) error) error
