package advisorylock

import (
	"context"
	"errors"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

const (
	// patience is how long one statement may wait for the lock. It bounds how
	// long CREATE INDEX CONCURRENTLY and vacuum wait for a waiter, and makes a
	// long wait cost three round trips a second.
	patience = time.Second

	// reportEvery is the time between two calls of Trace.Waiting.
	reportEvery = 10 * time.Second

	// lookUpTime bounds the look at who is in the way.
	lookUpTime = 500 * time.Millisecond
)

var errPatience = errors.New("the burst of waiting is over")

// lock takes the lock. However many bursts that takes, it is one step: the
// recorded order does not depend on contention.
func (c *call) lock(ctx context.Context) error {
	err := c.step(ctx, locktrace.Lock, c.waitForLock)
	c.gaveUp = err != nil && !c.try && ctx.Err() != nil
	return err
}

func (c *call) waitForLock(ctx context.Context) error {
	granted, err := c.first(ctx)
	for !granted && !c.try && ctx.Err() == nil && (err == nil || timedOut(err)) {
		if err = c.restart(ctx); err == nil {
			granted, err = c.burst(ctx)
		}
	}
	if err == nil && !granted {
		return ErrNotAcquired
	}
	return err
}

// first asks for the lock. WithXactLock simply blocks, which is what users'
// mocks see and what takes over fastest; a wait that lasts goes on in bursts.
// Hold begins with a burst, for it never interrupts a statement, which would
// write an ERROR to the server's log.
func (c *call) first(ctx context.Context) (granted bool, err error) {
	switch {
	case c.try:
		return c.ask(ctx, c.trySQL())
	case c.lease:
		return c.burst(ctx)
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = c.ask(patient, c.blockSQL())
	if patient.Err() != nil && ctx.Err() == nil {
		// Even if the lock was granted at the same moment: the driver may have
		// sent the cancellation, or broken the connection, by now.
		c.conn.Distrust()
		return false, errPatience
	}
	return err == nil, err
}

func (c *call) burst(ctx context.Context) (granted bool, err error) {
	length := patience
	if c.lease {
		// The lease counts from the moment this statement is sent.
		length = min(length, c.ttl()/3)
	}
	return c.ask(ctx, c.burstSQL(length))
}

// ask sends a lock statement and reports whether it affected a row.
func (c *call) ask(ctx context.Context, statement string) (bool, error) {
	c.asked = time.Now()
	rows, err := c.conn.Exec(ctx, statement)
	if err == nil && ctx.Err() != nil {
		c.conn.Distrust()
		err = ctx.Err()
	}
	return err == nil && rows == 1, err
}

// timedOut reports whether err is the end of one burst and not of the wait:
// lock_timeout and statement_timeout of the DSN, the role or the database are
// meant for the user's statements.
func timedOut(err error) bool {
	code := sqlstate.Of(err)
	return errors.Is(err, errPatience) || code == "55P03" || code == "57014"
}

// restart begins a new transaction, which lets go of the snapshot that the last
// one waited with, on a new connection if the old one is no longer good.
func (c *call) restart(ctx context.Context) error {
	_ = c.conn.Rollback(ctx)
	if c.Trace != nil && c.Trace.Waiting != nil && !time.Now().Before(c.nextReport) {
		c.report(ctx, c.lookOnOwn(ctx))
	}
	for stale := c.db.Stats().OpenConnections; ; stale-- {
		if err := c.reopen(ctx); err != nil {
			return err
		}
		err := c.begin(ctx)
		if err == nil || !sqlstate.Lost(err) || stale < 0 {
			return err
		}
		c.conn.Distrust()
	}
}

// reopen takes another connection if this one is no longer good.
func (c *call) reopen(ctx context.Context) error {
	if c.conn.Usable() {
		return nil
	}
	_ = c.conn.Release(ctx)
	conn, err := bounded.Open(ctx, c.db)
	if err == nil {
		c.conn = conn
	}
	return err
}

// lookOnOwn returns who has the lock, asked on the waiter's own connection
// between two bursts: a pool of one has no other.
func (c *call) lookOnOwn(ctx context.Context) []Session {
	ctx, cancel := context.WithTimeout(ctx, lookUpTime)
	defer cancel()
	if c.reopen(ctx) != nil {
		return nil
	}
	sessions, err := sessionsOn(ctx, c.conn, c.key)
	if err != nil {
		c.conn.Distrust()
	}
	return holders(sessions)
}

// report tells Trace.Waiting who is in the way.
func (c *call) report(ctx context.Context, holders []Session) {
	now := time.Now()
	c.nextReport = now.Add(reportEvery)
	c.Trace.Waiting(ctx, locktrace.Wait{Key: int64(c.key), Name: c.Name, Waited: now.Sub(c.begun), Holders: holders})
}

// lookUp returns who has the lock, as far as that can be found out in short
// time on another connection.
func (c *call) lookUp(ctx context.Context) []Session {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTime)
	defer cancel()
	sessions, err := Sessions(ctx, c.db, c.key)
	if err != nil {
		return nil
	}
	return holders(sessions)
}

func holders(sessions []Session) []Session {
	for i, s := range sessions {
		if !s.Granted {
			return sessions[:i]
		}
	}
	return sessions
}
