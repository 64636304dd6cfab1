// Package bounded pins one connection of a pool and bounds every call on it by
// a context, even where the driver does not look at the context: see "Drivers
// that do not return" in docs/how-it-works.md. Each call runs on a goroutine of
// its own, and when the context has ended and the driver has not come back
// within [Grace], the caller goes on without it.
//
// No driver is exempt. One that was recognised by its import path would be
// trusted with whatever its user has plugged into it, and the goroutine costs
// no more than a tenth of a round trip to a local server. It is left out only
// for a context that never ends, where it would be of no use.
package bounded

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/bootlock/bootlock/internal/secret"
	"github.com/bootlock/bootlock/internal/serverpid"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

const (
	// Grace is how long a driver may take to come back after its context ended.
	// A healthy one needs a round trip, to tell the server to cancel.
	Grace = 500 * time.Millisecond

	// cleanUp is how long a rollback or the return of a connection may take
	// while the context has not ended.
	cleanUp = 5 * time.Second
)

// ErrNoReturn says that the driver ignored the end of a context. The connection
// is finished off in the background and never goes back to the pool.
var ErrNoReturn = errors.New("the driver did not come back in time; its connection is abandoned")

// Do runs a call of a driver and returns its error, as [Ended] has it, or
// ErrNoReturn when ctx has ended and Grace has passed. What call assigns must not be
// read after ErrNoReturn.
func Do(ctx context.Context, call func() error) error {
	if ctx.Done() == nil && hooksOf(ctx) == nil {
		return call()
	}
	return await(ctx, start(call))
}

func start(call func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the driver ended its goroutine") // stands after runtime.Goexit
		defer func() {
			// A panic of the driver belongs to the caller, who may recover from
			// it; here it would end the program.
			if v := recover(); v != nil {
				err = panicked{v}
			}
			done <- err
			close(done)
		}()
		err = call()
	}()
	return done
}

type panicked struct{ value any }

func (p panicked) Error() string { return fmt.Sprint("panic: ", p.value) }

func await(ctx context.Context, done <-chan error) error {
	err, ok := Until(ctx, done)
	if !ok {
		grace := time.NewTimer(Grace)
		defer grace.Stop()
		select {
		case err = <-done:
		case <-grace.C:
			return Ended(ctx, ErrNoReturn)
		}
	}
	if p, ok := err.(panicked); ok { //nolint:errorlint // what start made, not what the driver returned
		panic(p.value)
	}
	return Ended(ctx, err)
}

// state is what may still be done with a connection. It only ever moves down
// this table.
//
//	state     statements   goes back to the pool   Release
//	sound     yes          yes                     gives it back
//	doubtful  yes          no                      closes it
//	stuck     no           no                      leaves it to a goroutine, which closes it
//	released  no           –                       does nothing
type state int

const (
	sound    state = iota // as it came from the pool
	doubtful              // it may hold a transaction, or be broken
	stuck                 // a call has not come back
	released              // no longer ours
)

// Conn is one connection of a pool, with at most one transaction at a time. It
// is not safe for concurrent use, [Conn.Start] aside.
type Conn struct {
	conn  *sql.Conn // nil if it was never opened
	state state
	mock  bool
	under <-chan error // the call that has not come back, when stuck

	tx   *sql.Tx
	ctx  context.Context    // what the transaction was begun with
	kill context.CancelFunc // ends ctx, and with it whatever the driver is doing for the transaction
}

// Open takes a connection from db, waiting for one as [sql.DB.Conn] does.
func Open(ctx context.Context, db *sql.DB) (*Conn, error) {
	c := &Conn{kill: func() {}}
	opened := false
	defer func() {
		if !opened {
			_ = c.Release(ctx)
		}
	}()
	err := c.do(ctx, func() (err error) {
		c.conn, err = db.Conn(ctx)
		return err
	})
	if opened = err == nil; !opened {
		return nil, secret.Hide(poolHint(ctx, db, err))
	}
	return c, nil
}

// poolHint says in the error of a wait for a connection that lasted what may be the
// reason, also where database/sql cannot see it.
func poolHint(ctx context.Context, db *sql.DB, err error) error {
	if ctx.Err() == nil || sqlstate.Of(err) != "" { // the server has answered
		return err
	}
	switch stats := db.Stats(); {
	case stats.MaxOpenConnections > 0 && stats.InUse >= stats.MaxOpenConnections:
		return fmt.Errorf("all %d connections of the pool are in use: %w", stats.MaxOpenConnections, err)
	case stats.MaxOpenConnections == 0 && stats.InUse > 0:
		return fmt.Errorf("if the driver has a pool of its own, such as pgxpool, give its size to SetMaxOpenConns: %w", err)
	}
	return err
}

// do is [Do] on this connection, which it gives up on when the call does not
// come back.
func (c *Conn) do(ctx context.Context, call func() error) error {
	if c.state >= stuck {
		return Ended(ctx, ErrNoReturn)
	}
	if ctx.Done() == nil && hooksOf(ctx) == nil {
		return call()
	}
	done := start(call)
	err := ErrNoReturn
	defer func() { // deferred, for a hook or driver that panics
		if errors.Is(err, ErrNoReturn) {
			c.Abandon(done)
		}
	}()
	err = await(ctx, done)
	return err
}

// Abandon gives the connection up because of a statement that has not come back; nil
// stands for none. Every later call on the connection fails with ErrNoReturn at once.
func (c *Conn) Abandon(under <-chan error) {
	if under != nil {
		c.state, c.under = stuck, under
		c.kill()
	}
}

// Distrust keeps the connection from going back to the pool.
func (c *Conn) Distrust() { c.state = max(c.state, doubtful) }

// Mock reports whether the connection is a mock's. No driver for PostgreSQL has a
// LastInsertId; the mocks that people use do.
func (c *Conn) Mock() bool { return c.mock }

// ServerPID returns the server process that the driver was told it talks to, 0 if
// the driver does not say.
func (c *Conn) ServerPID() (pid int64) {
	_ = raw(c.conn, func(driverConn any) error {
		pid = serverpid.Of(driverConn)
		return nil
	})
	return pid
}

// Begin begins a transaction. ctx bounds the call, and no more than the call:
// it can end later without taking the transaction with it, as it would if it
// had been given to [sql.Conn.BeginTx].
func (c *Conn) Begin(ctx context.Context, opts *sql.TxOptions) error {
	c.ctx, c.kill = context.WithCancel(context.WithoutCancel(ctx))
	attached := context.AfterFunc(ctx, c.kill)
	var tx *sql.Tx
	err := c.do(ctx, func() (err error) {
		tx, err = c.conn.BeginTx(c.ctx, opts)
		return err
	})
	detached := attached()
	if err != nil {
		return err
	}
	c.tx = tx
	if !detached { // database/sql is rolling it back already
		_ = c.Rollback(ctx)
		return Ended(ctx, ctx.Err())
	}
	return nil
}

// Tx is the transaction that is open.
func (c *Conn) Tx() *sql.Tx { return c.tx }

// Exec runs a literal statement in the transaction, if one is open, and returns
// the number of rows affected.
func (c *Conn) Exec(ctx context.Context, query string) (int64, error) {
	var rows int64
	err := c.do(ctx, func() (err error) {
		rows, err = c.exec(ctx, query)
		return err
	})
	if err != nil {
		return 0, err
	}
	return rows, nil
}

func (c *Conn) exec(ctx context.Context, query string) (int64, error) {
	run := c.conn.ExecContext
	if c.tx != nil {
		run = c.tx.ExecContext
	}
	res, err := run(ctx, query)
	if err != nil {
		return 0, err
	}
	if _, err := res.LastInsertId(); err == nil {
		c.mock = true
	}
	return res.RowsAffected()
}

// Exec runs a literal statement that only asks, on a connection of its own, outside any
// transaction. The pool may be full of connections that the server closed long ago, so it
// is run again on the next one, as database/sql does for a query without [sql.Conn].
func Exec(ctx context.Context, db *sql.DB, query string) (int64, error) {
	for stale := db.Stats().OpenConnections; ; stale-- {
		rows, lost, err := exec(ctx, db, query)
		if stale <= 0 || !lost {
			return rows, err
		}
	}
}

func exec(ctx context.Context, db *sql.DB, query string) (rows int64, lost bool, err error) {
	conn, err := Open(ctx, db)
	if err != nil {
		return 0, false, err
	}
	defer conn.Release(ctx) //nolint:errcheck // the statement has its answer
	rows, err = conn.Exec(ctx, query)
	return rows, sqlstate.Lost(err), err
}

// Start begins a literal statement in the transaction without waiting for it. Its error
// comes through the channel, once. It ends by itself when the transaction is killed, if
// the driver heeds that.
func (c *Conn) Start(query string) <-chan error {
	tx, ctx := c.tx, c.ctx
	return start(func() error {
		_, err := tx.ExecContext(ctx, query)
		return err
	})
}

// Query runs a literal query and calls each for every row. It does not stop
// early, and each must not keep rows.
func (c *Conn) Query(ctx context.Context, query string, each func(rows *sql.Rows) error) error {
	return c.do(ctx, func() error {
		rows, err := c.tx.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := each(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// Commit commits the transaction. A connection whose commit failed does not go
// back to the pool: it may still hold the transaction, and with it the lock.
func (c *Conn) Commit(ctx context.Context) error {
	err := c.do(ctx, c.tx.Commit)
	c.end(err)
	return err
}

// Rollback rolls the transaction back, within bounds of its own if ctx has none
// or has ended. Like Commit, it lets no doubtful connection back into the pool.
func (c *Conn) Rollback(ctx context.Context) error {
	if c.tx == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cleanUp)
	defer cancel()
	err := c.do(ctx, c.tx.Rollback)
	if errors.Is(err, sql.ErrTxDone) { // ended by database/sql, or by the user's callback
		err = nil
	}
	c.end(err)
	return err
}

func (c *Conn) end(err error) {
	if err != nil && !errors.Is(err, sql.ErrTxDone) {
		c.Distrust()
	}
	if c.state < stuck {
		c.kill()
		c.tx = nil
	}
}

// Release gives the connection back to the pool, or closes it if it is not fit
// to be used again. One that is stuck is closed when the driver comes back. A
// second Release does nothing.
func (c *Conn) Release(ctx context.Context) error {
	if c.state == released {
		return nil
	}
	if c.tx != nil && c.state < stuck { // somebody panicked; sql.Conn.Close would wait for it
		_ = c.Rollback(ctx)
	}
	was := c.state
	c.state = released
	switch {
	case was == stuck:
		go c.finishOff(c.under)
		return ErrNoReturn
	case c.conn == nil: // never opened
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cleanUp)
	defer cancel()
	done := start(func() error { return c.close(was == sound) })
	err := await(ctx, done)
	if errors.Is(err, ErrNoReturn) {
		go c.finishOff(done)
	}
	return err
}

func (c *Conn) close(fit bool) error {
	if !fit && !c.mock { // a mock that is closed without being told to expect it fails from then on
		_ = raw(c.conn, func(any) error { return driver.ErrBadConn })
	}
	if err := c.conn.Close(); err != nil && !errors.Is(err, sql.ErrConnDone) {
		return err
	}
	return nil
}

// raw gives f the driver's connection; with ErrBadConn, f keeps it out of the pool, in
// the documented way. database/sql may be closing it at this very moment, after a
// rollback of its own that failed, and then Raw dereferences nil: it looks whether the
// connection is there before it takes the mutex that guards it.
func raw(conn *sql.Conn, f func(driverConn any) error) error {
	defer func() { _ = recover() }()
	return conn.Raw(f)
}

func (c *Conn) finishOff(under <-chan error) {
	<-under //nolint:errcheck // whatever it says, it is over
	if c.conn == nil {
		return
	}
	if c.tx != nil {
		_ = c.tx.Rollback()
	}
	_ = c.close(false)
}
