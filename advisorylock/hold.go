package advisorylock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
)

const (
	defaultTTL = 30 * time.Second
	minTTL     = time.Second
	maxTTL     = math.MaxInt32 * time.Millisecond // what the server's setting takes

	// endTime bounds the end of the lease when fn is done and ctx goes on.
	endTime = 5 * time.Second
)

// ttl is the idle limit that the transaction gets; zero leaves it alone.
func (c *call) ttl() time.Duration {
	switch {
	case c.TTL == 0 && c.lease:
		return defaultTTL
	case c.TTL == 0:
		return 0
	}
	return min(max(c.TTL, minTTL), maxTTL)
}

// Hold waits for key and holds it while fn runs. It is the zero [Locker]'s; see
// [Locker.Hold].
func Hold(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context) error) error {
	return Locker{}.Hold(ctx, db, key, fn)
}

// TryHold is [Hold] without the wait: it returns [ErrNotAcquired] if somebody
// else has the lock. It is the zero [Locker]'s.
func TryHold(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context) error) error {
	return Locker{}.TryHold(ctx, db, key, fn)
}

// Hold waits for key, for as long as ctx lasts, and holds it while fn runs. It
// is for work that does not fit into one transaction: a whole migration run,
// CREATE INDEX CONCURRENTLY, a child process. fn works with the pool as it
// likes; the lock is kept by an idle transaction on a connection of its own,
// which disturbs neither vacuum nor a CREATE INDEX CONCURRENTLY of fn or any
// later one. (One that somebody runs without the lock, and that was under way
// in the last second before the grant, may wait until Hold returns: it waits
// for the transaction that had a snapshot then, and that one has the lock now.)
// The pool must allow two connections at least: else it is [ErrPoolTooSmall],
// at once.
//
// # The lease
//
// The lock is a lease of Locker.TTL that the server enforces: it ends the
// transaction when nothing was heard from the holder for TTL. A heartbeat goes
// out every third of that. When none comes back, or the session turns out to be
// gone, the context of fn is cancelled with the cause [ErrLost].
//
// That happens before the server can give the lock to anybody else. The
// server's clock for the lease starts anew when it has answered a heartbeat,
// which is after the heartbeat was sent; so it cannot run out before TTL has
// passed since the last good heartbeat was sent, and that moment, less a tenth
// of TTL, is when the context ends. The grant itself counts as the first
// heartbeat, sent when its statement was.
//
// It does not cover a session that the server ends for another reason, such as
// pg_terminate_backend, a crash or a failover, which fn learns of by the next
// heartbeat; nor a process that is frozen through its own deadline, whose fn
// goes on for an instant when it thaws, before it sees its context end; nor a
// fn that does not look at its context. What must not happen twice even then
// needs a check of its own, in the transaction that does it.
//
// # Results
//
// Hold returns after fn has returned: with fn's own error, untouched, or with
// ErrLost, and fn's error in its chain, if the lock was lost, even if fn
// returned nil. The end of ctx reaches fn; the lock is kept until fn returns. A
// panic or runtime.Goexit in fn frees the lock and goes on. A wait that ended
// without the lock is a [WaitError], and fn was not called.
func (l Locker) Hold(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context) error) error {
	return l.hold(ctx, "Hold", db, key, false, fn)
}

// TryHold is [Locker.Hold] without the wait: it returns [ErrNotAcquired] if
// somebody else has the lock or is about to take it, on the server or inside
// this process. It may still wait for a connection.
func (l Locker) TryHold(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context) error) error {
	return l.hold(ctx, "TryHold", db, key, true, fn)
}

func (l Locker) hold(ctx context.Context, op string, db *sql.DB, key Key, try bool, fn func(ctx context.Context) error) error {
	checkArgs(op, ctx, db)
	checkFn(op, fn == nil)
	c := call{Locker: l, op: op, db: db, key: key, try: try, lease: true}
	return c.run(ctx, func(ctx context.Context) error { return c.inLease(ctx, fn) })
}

// inLease runs fn while heartbeats keep the lease, and ends the transaction.
func (c *call) inLease(ctx context.Context, fn func(ctx context.Context) error) error {
	fnCtx, cancel := context.WithCancelCause(c.withHeld(ctx))
	defer cancel(nil)
	lease := c.keep(ctx, func() { cancel(ErrLost) })
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			_ = lease.end()
			c.rollback(ctx)
		}
	}()
	err := fn(fnCtx)
	returned = true
	if gone := lease.end(); gone != nil {
		c.rollback(ctx)
		return c.lostLease(gone, err)
	}
	if err != nil {
		if c.rollback(ctx) {
			return c.lostLease(errors.New("the session is gone"), err)
		}
		return bounded.Ended(ctx, err)
	}
	// Nothing was written, so that nothing but the lock can be in doubt.
	err = c.step(ctx, locktrace.Commit, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, endTime)
		defer cancel()
		return c.conn.Commit(ctx)
	})
	if err != nil {
		return c.lostLease(fmt.Errorf("commit: %w", errors.Unwrap(err)), nil)
	}
	return nil
}

// lostLease is ErrLost, because of why, with what fn returned.
func (c *call) lostLease(why, err error) error {
	if err != nil {
		why = fmt.Errorf("%w; the function returned: %w", why, err)
	}
	return fmt.Errorf("advisorylock.%s %s: %w: %w", c.op, c.name(), ErrLost, why)
}
