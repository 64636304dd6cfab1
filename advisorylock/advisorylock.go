// Package advisorylock runs code under an advisory lock of PostgreSQL that is
// scoped to a transaction, over any *sql.DB, any driver, any pool size, and
// through PgBouncer.
//
//   - [WithXactLock] runs a function in the transaction that holds the lock.
//   - [Hold] holds the lock, as a lease that the server enforces, while a
//     function works with the whole pool.
//   - [TryWithXactLock] and [TryHold] do not wait.
//   - [Fence] keeps a transaction from being committed after its lease is lost
//     and the next holder has begun.
//   - [Sessions] lists the sessions that hold a key or wait for it.
//   - [KeyOf] makes a key from a name.
//   - [Locker] holds the options; the package functions use a zero Locker.
//
// # What it takes care of
//
// The context is the only timeout. It bounds the connection, BEGIN and the
// wait, even where the driver does not look at it; a driver call that does not
// come back after its context ended is left to a goroutine of its own, and its
// connection never goes back to the pool. That goroutine is the only thing that
// can outlive a call.
//
// # Waiting
//
// Any number of processes may wait. A waiter for [WithXactLock] queues on the server,
// so that turns are fair. A waiter for [Hold] queues only on a direct connection while
// there are connections to spare; otherwise it polls, keeps no connection that the
// holder may need, and as a rule waits at most a tenth longer than necessary. Only its
// context ends a wait, not a connection that is refused (SQLSTATE 53300, 57P03) or
// lost. docs/how-it-works.md says more.
//
// # In the process
//
// Within the process, callers of one key on one *sql.DB queue up, and only the
// first of them has a connection. Locks together never take the last connection
// of a pool that has more than one, so that a callback can always use the pool.
// Callers that take several keys should take them in the same order everywhere,
// as with any mutex. If two callers wait for each other on one *sql.DB, one of them
// gets an error at once; two processes wait until a context ends. A driver with a pool
// of its own, such as stdlib.OpenDBFromPool of pgx, hides its limit from database/sql:
// pass the limit to [sql.DB.SetMaxOpenConns], or none of this can hold.
//
// The package uses no session-level locks: they would survive [sql.Conn.Close] and
// strand behind a pooler.
//
// All functions are safe for concurrent use. They panic on a nil context, db or
// function. The package follows semantic versioning with its module; it compiles
// nothing but the standard library into the program.
package advisorylock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/bridge"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

// Locker holds the options of a lock. Its zero value is ready; it can be copied
// and shared.
type Locker struct {
	// TTL is how long a holder that has gone silent, because it is frozen or
	// cut off, keeps the lock. The server enforces it, by
	// idle_in_transaction_session_timeout for this transaction.
	//
	// Zero leaves the server's own limit alone in WithXactLock, and means 30
	// seconds in Hold. Anything below one second counts as one second.
	TTL time.Duration

	// Name says what the key stands for, in errors and traces. Empty means
	// that they show the key itself.
	Name string

	// Trace, if not nil, observes each step.
	Trace *locktrace.Trace
}

// WithXactLock waits for key, runs fn in the transaction that holds it, and
// commits. It uses a zero [Locker]; see [Locker.WithXactLock].
func WithXactLock(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context, tx *sql.Tx) error) error {
	return Locker{}.WithXactLock(ctx, db, key, fn)
}

// TryWithXactLock is [WithXactLock] without the wait: it returns
// [ErrNotAcquired] if somebody else has the lock. It uses a zero [Locker].
func TryWithXactLock(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context, tx *sql.Tx) error) error {
	return Locker{}.TryWithXactLock(ctx, db, key, fn)
}

// WithXactLock waits for key, for as long as ctx lasts, runs fn in the READ
// COMMITTED transaction that holds it, and commits, which frees the lock. If fn
// fails, panics or ends its goroutine, the transaction is rolled back, and the
// error or panic goes on untouched.
//
// Once the lock is held, the end of ctx reaches fn, by the context that it is
// given, and prevents the commit, but it does not end the transaction: the lock
// is never free while fn still runs. (With pgx, a statement of fn that is
// cancelled takes the whole session with it; fn learns of it by that statement's
// error.) fn must not commit or roll back itself, and must not return before
// everything that uses tx is done.
//
// On failure nothing is left behind: no lock, no transaction, no connection in
// doubt in the pool. Errors are a [locktrace.StepError] that says which step
// failed, except for fn's own. A failed commit is not followed by a rollback. If
// the server answered it, nothing was committed; if not, the outcome is unknown,
// and the error says so. A wait that ended without the lock is a [WaitError]; a
// session that ended under fn is [ErrLost].
func (l Locker) WithXactLock(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context, tx *sql.Tx) error) error {
	return withXactLock(ctx, l.call(ctx, "WithXactLock", db, key, fn == nil), fn)
}

// TryWithXactLock is [Locker.WithXactLock] without the wait: it returns
// [ErrNotAcquired] if somebody else has the lock or is about to take it, on the
// server or inside this process. It may still wait for a connection.
func (l Locker) TryWithXactLock(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context, tx *sql.Tx) error) error {
	c := l.call(ctx, "TryWithXactLock", db, key, fn == nil)
	c.Try = true
	return withXactLock(ctx, c, fn)
}

// call checks the arguments of a call. Package schemaguard makes its calls by itself.
func (l Locker) call(ctx context.Context, op string, db *sql.DB, key Key, noFn bool) bridge.Call {
	checkArgs(op, ctx, db, noFn)
	return bridge.Call{Op: "advisorylock." + op, DB: db, Key: int64(key), Name: l.Name, TTL: l.TTL, Trace: l.Trace}
}

func withXactLock(ctx context.Context, c bridge.Call, fn func(ctx context.Context, tx *sql.Tx) error) error {
	a := newAcquisition(c, false)
	return a.run(ctx, func(ctx context.Context) error { return a.inXact(ctx, fn) })
}

func init() { bridge.WithXactLock, bridge.Hold = withXactLock, hold }

func checkArgs(op string, ctx context.Context, db *sql.DB, noFn bool) {
	switch {
	case ctx == nil:
		panic("advisorylock." + op + ": nil context")
	case db == nil:
		panic("advisorylock." + op + ": nil *sql.DB")
	case noFn:
		panic("advisorylock." + op + ": nil function")
	}
}

// inXact runs fn in the transaction that holds the lock, and ends it.
func (a *acquisition) inXact(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			a.rollback(ctx)
		}
	}()
	err := fn(a.withHeld(ctx), a.conn.Tx())
	returned = true
	if err == nil && ctx.Err() == nil {
		return a.commit(ctx)
	}
	if err == nil {
		err = a.failed(locktrace.Commit, bounded.Ended(ctx, errNotSent))
	}
	gone := a.rollback(ctx)
	if ctx.Err() != nil {
		return bounded.Ended(ctx, err)
	}
	if gone {
		return withErrLost(err)
	}
	return err
}

var errNotSent = errors.New("not sent")

// commit commits what fn did. Only where the server has not answered is the
// outcome unknown: an answer with a SQLSTATE says that nothing was committed,
// such as that of a deferred constraint.
func (a *acquisition) commit(ctx context.Context) error {
	return a.step(ctx, locktrace.Commit, func(ctx context.Context) error {
		err := a.conn.Commit(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, sql.ErrTxDone):
			return fmt.Errorf("the function ended the transaction itself, and with it the lock: %w", err)
		case sqlstate.Lost(err):
			err = withErrLost(err)
		case sqlstate.RolledBack(err):
			return fmt.Errorf("nothing was committed: %w", err)
		}
		return fmt.Errorf("outcome unknown: %w", err)
	})
}
