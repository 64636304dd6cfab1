// Package advisorylock runs code under an advisory lock of PostgreSQL that is
// scoped to a transaction, over any *sql.DB, any driver, any pool size, and
// through PgBouncer.
//
//   - [WithXactLock] runs a function in the transaction that holds the lock.
//   - [Hold] holds the lock, as a lease that the server enforces, while a
//     function works with the whole pool.
//   - [TryWithXactLock] and [TryHold] do not wait.
//   - [Sessions] shows who holds a key and who waits for it.
//   - [KeyOf] makes a key from a name.
//   - [Locker] has the options; the functions are the zero Locker's.
//
// # What it takes care of
//
// The context is the only timeout. It bounds the connection, BEGIN and the
// wait, even where the driver does not look at it; a driver call that does not
// come back after its context ended is left to a goroutine of its own, and its
// connection never goes back to the pool. That goroutine is the only thing that
// can outlive a call.
//
// No wait stands in the way of CREATE INDEX CONCURRENTLY or vacuum for longer
// than about a second: a session that blocks in pg_advisory_xact_lock keeps a
// snapshot, which both of them wait for, so a longer wait goes on in bursts, a
// new transaction each.
//
// Within the process, callers of one key on one *sql.DB queue up, and only the
// first of them has a connection. Locks together never take the last connection
// of a pool that has more than one, so that a callback can always use the pool.
// Who takes several keys should take them in the same order everywhere, as with
// any mutex.
//
// No session-level lock is used anywhere: it would survive [sql.Conn.Close] and
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
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/step"
)

// Locker has the options of a lock. Its zero value is ready; it can be copied
// and shared.
type Locker struct {
	// TTL is how long a holder that has gone silent, because it is frozen or
	// cut off, keeps the lock. The server enforces it, by
	// idle_in_transaction_session_timeout for this transaction.
	//
	// Zero leaves the server's own limit alone in WithXactLock, and means 30
	// seconds in Hold. Anything below one second counts as one second.
	TTL time.Duration

	// Shared takes the lock in shared mode: any number of sharers may have it
	// at once, and none of them together with an exclusive holder.
	Shared bool

	// Name says what the key stands for, in errors and traces. Empty means
	// that they show the key itself.
	Name string

	// Trace watches the steps. Nil watches nothing.
	Trace *locktrace.Trace
}

// WithXactLock waits for key, runs fn in the transaction that holds it, and
// commits. It is the zero [Locker]'s; see [Locker.WithXactLock].
func WithXactLock(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context, tx *sql.Tx) error) error {
	return Locker{}.WithXactLock(ctx, db, key, fn)
}

// TryWithXactLock is [WithXactLock] without the wait: it returns
// [ErrNotAcquired] if somebody else has the lock. It is the zero [Locker]'s.
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
// failed, except for fn's own. A failed commit is not followed by a rollback,
// and its outcome is unknown: the server may have committed. A wait that ended
// without the lock is a [WaitError]; a session that ended under fn is [ErrLost].
func (l Locker) WithXactLock(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context, tx *sql.Tx) error) error {
	checkArgs("WithXactLock", ctx, db)
	checkFn("WithXactLock", fn == nil)
	c := call{Locker: l, op: "WithXactLock", db: db, key: key}
	return c.run(ctx, func(ctx context.Context) error { return c.inXact(ctx, fn) })
}

// TryWithXactLock is [Locker.WithXactLock] without the wait: it returns
// [ErrNotAcquired] if somebody else has the lock or is about to take it, on the
// server or inside this process. It may still wait for a connection.
func (l Locker) TryWithXactLock(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context, tx *sql.Tx) error) error {
	checkArgs("TryWithXactLock", ctx, db)
	checkFn("TryWithXactLock", fn == nil)
	c := call{Locker: l, op: "TryWithXactLock", db: db, key: key, try: true}
	return c.run(ctx, func(ctx context.Context) error { return c.inXact(ctx, fn) })
}

func checkArgs(op string, ctx context.Context, db *sql.DB) {
	if ctx == nil {
		panic("advisorylock." + op + ": nil context")
	}
	if db == nil {
		panic("advisorylock." + op + ": nil *sql.DB")
	}
}

func checkFn(op string, isNil bool) {
	if isNil {
		panic("advisorylock." + op + ": nil function")
	}
}

// call is one call of a Locker.
type call struct {
	Locker
	op    string
	db    *sql.DB
	key   Key
	try   bool // do not wait
	lease bool // Hold: the transaction only holds the lock

	pool   *pool // see queue.go
	turns  *keyLine
	weight int // what it has of turns
	slot   int // what it has of pool.conns
	held   *held

	conn       *bounded.Conn
	gaveUp     bool      // the wait for the lock ended without it
	silent     bool      // a driver call did not come back
	begun      time.Time // when the call began
	asked      time.Time // when the last lock statement was sent
	nextReport time.Time // when Trace.Waiting is due
}

// run takes the lock, runs inside, which ends the transaction, and gives
// everything back.
func (c *call) run(ctx context.Context, inside func(ctx context.Context) error) error {
	c.begun = time.Now()
	c.nextReport = c.begun.Add(patience)
	err := c.locked(ctx, inside)
	var failed *locktrace.StepError
	if !c.gaveUp || !errors.As(err, &failed) {
		return err
	}
	wait := &WaitError{Key: c.key, Waited: time.Since(c.begun), Err: failed.Err}
	if !c.silent {
		// Only now, with its own connection given back: a pool of one has no
		// other to ask on.
		wait.Holders = c.lookUp(ctx)
	}
	return c.failed(failed.Step, wait)
}

func (c *call) locked(ctx context.Context, inside func(ctx context.Context) error) error {
	defer c.leave()
	defer c.drop(ctx)
	if err := c.open(ctx); err != nil {
		return err
	}
	defer c.release(ctx)
	if err := c.lock(ctx); err != nil {
		c.rollback(ctx)
		return err
	}
	return inside(ctx)
}

// step runs fn as one traced step, and says in its error which.
func (c *call) step(ctx context.Context, s locktrace.Step, fn func(ctx context.Context) error) error {
	err := step.Do(ctx, c.Trace, c.event(s), func(ctx context.Context) error {
		err := fn(ctx)
		c.silent = c.silent || errors.Is(err, bounded.ErrNoReturn)
		return classify(bounded.Ended(ctx, err))
	})
	if err != nil {
		return c.failed(s, err)
	}
	return nil
}

func (c *call) event(s locktrace.Step) locktrace.Event {
	return locktrace.Event{Step: s, Key: int64(c.key), Name: c.Name}
}

func (c *call) failed(s locktrace.Step, err error) error {
	return &locktrace.StepError{Op: "advisorylock." + c.op, Name: c.name(), Step: s, Err: err}
}

func (c *call) name() string {
	if c.Name != "" {
		return c.Name
	}
	return c.key.String()
}

// open waits for the key's turn in the process, takes a connection and begins.
//
// A pool may be full of connections that the server closed long ago. BEGIN is
// the first to notice, and nothing has happened yet, so it is tried again on
// the next one, as database/sql does for [sql.DB.BeginTx], which cannot be used
// here since it does not tell connect from begin.
func (c *call) open(ctx context.Context) error {
	stale := c.db.Stats().OpenConnections
	for ; ; stale-- {
		err := c.step(ctx, locktrace.Connect, c.connect)
		if err != nil {
			return err
		}
		err = c.step(ctx, locktrace.Begin, c.begin)
		if err == nil {
			return nil
		}
		c.release(ctx)
		switch {
		case !sqlstate.Lost(err) || errors.Is(err, ErrUnsupported) || ctx.Err() != nil:
			return err
		case stale < 0 && c.refusesBegin(ctx):
			return c.failed(locktrace.Begin, fmt.Errorf("%w: %w", errStatementMode, errors.Unwrap(err)))
		case stale < 0:
			return err
		}
	}
}

// refusesBegin reports whether a connection works but breaks at BEGIN. Behind a
// pooler in statement mode it does, and lib/pq hides the pooler's reason.
func (c *call) refusesBegin(ctx context.Context) bool {
	conn, err := bounded.Open(ctx, c.db)
	if err != nil {
		return false
	}
	defer conn.Release(ctx) //nolint:errcheck // it was only a question
	if _, err := conn.Exec(ctx, "SELECT 1"); err != nil {
		return false
	}
	err = conn.Begin(ctx, nil)
	_ = conn.Rollback(ctx)
	return sqlstate.Lost(err)
}

func (c *call) connect(ctx context.Context) (err error) {
	if c.slot == 0 {
		if err := c.enter(ctx); err != nil {
			return err
		}
	}
	c.conn, err = bounded.Open(ctx, c.db)
	return err
}

// begin names the isolation level, since the database's default may be another:
// SERIALIZABLE would work on a snapshot from before the wait, and fail with
// 40001 after it.
func (c *call) begin(ctx context.Context) error {
	return c.conn.Begin(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
}

// inXact runs fn in the transaction and ends it.
func (c *call) inXact(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			c.rollback(ctx)
		}
	}()
	err := fn(c.withHeld(ctx), c.conn.Tx())
	returned = true
	if err == nil && ctx.Err() == nil {
		return c.commit(ctx)
	}
	if err == nil {
		err = c.failed(locktrace.Commit, bounded.Ended(ctx, errNotSent))
	}
	gone := c.rollback(ctx)
	if ctx.Err() != nil {
		return bounded.Ended(ctx, err)
	}
	if gone {
		return lost(err)
	}
	return err
}

var errNotSent = errors.New("not sent")

func (c *call) commit(ctx context.Context) error {
	return c.step(ctx, locktrace.Commit, func(ctx context.Context) error {
		err := c.conn.Commit(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, sql.ErrTxDone):
			return fmt.Errorf("the function ended the transaction itself, and with it the lock: %w", err)
		case sqlstate.Lost(err):
			err = lost(err)
		}
		return fmt.Errorf("outcome unknown: %w", err)
	})
}

// rollback ends the transaction and reports whether its session was gone
// already, which ends it just as well.
func (c *call) rollback(ctx context.Context) (gone bool) {
	_ = c.step(ctx, locktrace.Rollback, func(ctx context.Context) error {
		err := c.conn.Rollback(ctx)
		gone = sqlstate.Lost(err)
		if gone || ctx.Err() != nil && !errors.Is(err, bounded.ErrNoReturn) {
			return nil
		}
		return err
	})
	return gone
}

func (c *call) release(ctx context.Context) {
	_ = c.step(ctx, locktrace.Release, c.conn.Release)
}

// drop gives back what a hook or a driver that panicked has kept from being
// given back in order.
func (c *call) drop(ctx context.Context) {
	if c.conn != nil {
		_ = c.conn.Release(ctx)
	}
}
