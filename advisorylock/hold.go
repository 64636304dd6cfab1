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
	"github.com/bootlock/bootlock/internal/fence"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

// endTime bounds the end of the lease when fn is done and ctx goes on.
const endTime = 5 * time.Second

// Hold waits for key and holds it while fn runs. It uses a zero [Locker]; see
// [Locker.Hold].
func Hold(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context) error) error {
	return Locker{}.Hold(ctx, db, key, fn)
}

// TryHold is [Hold] without the wait: it returns [ErrNotAcquired] if somebody
// else has the lock. It uses a zero [Locker].
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
// The pool must allow at least two connections; otherwise Hold returns
// [ErrPoolTooSmall] at once.
//
// # The lease
//
// The lock is a lease of Locker.TTL that the server enforces: it ends the
// transaction when nothing was heard from the holder for TTL. A heartbeat goes
// out every second, or every third of TTL if that is less. When none comes back,
// or the session turns out to be gone, the context of fn is cancelled with the
// cause [ErrLost].
//
// That happens before the server can give the lock to anybody else. The
// server's clock for the lease starts anew when it has answered a heartbeat,
// which is after the heartbeat was sent; so it cannot run out before TTL has
// passed since the last good heartbeat was sent, and that moment, less a tenth
// of TTL, is when the context ends. The lease starts when the lock statement was
// sent; a grant that arrives after that deadline does not count.
//
// Two processes may believe that they hold the lock
//
//   - for up to a second, or a third of TTL, after the session was ended for
//     another reason: by pg_terminate_backend, a restart or a failover, by a
//     network that resets the connection, or by PgBouncer's
//     idle_transaction_timeout or server_lifetime. The next holder begins at
//     once, and the old one learns of it by its next heartbeat;
//   - for an instant, when a process thaws that was frozen through its own
//     deadline, or a machine wakes that was suspended, before fn sees its context
//     end;
//   - for as long as fn does not look at its context.
//
// A transaction that must not be committed even then begins with [Fence].
//
// # Results
//
// Hold returns after fn has returned: with fn's own error, untouched, or with
// ErrLost, and fn's error in its chain, if the lock was lost, even if fn
// returned nil. The end of ctx reaches fn; the lock is kept until fn returns. A
// panic or runtime.Goexit in fn frees the lock and goes on. A wait that its context
// ended is a [WaitError], and fn was not called.
func (l Locker) Hold(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context) error) error {
	return hold(ctx, l.call(ctx, "Hold", db, key, fn == nil), fn)
}

// TryHold is [Locker.Hold] without the wait: it returns [ErrNotAcquired] if
// somebody else has the lock or is about to take it, on the server or inside
// this process. It may still wait for a connection.
func (l Locker) TryHold(ctx context.Context, db *sql.DB, key Key, fn func(ctx context.Context) error) error {
	c := l.call(ctx, "TryHold", db, key, fn == nil)
	c.Try = true
	return hold(ctx, c, fn)
}

func hold(ctx context.Context, c bridge.Call, fn func(ctx context.Context) error) error {
	a := newAcquisition(c, true)
	return a.run(ctx, func(ctx context.Context) error { return a.inLease(ctx, fn) })
}

// inLease runs fn while heartbeats keep the lease, and ends the transaction.
func (a *acquisition) inLease(ctx context.Context, fn func(ctx context.Context) error) error {
	defer a.remember(time.Now())
	if a.late() { // a hook took long
		a.rollback(ctx)
		return a.leaseLost(errQuiet, nil)
	}
	fnCtx, cancel := context.WithCancelCause(fence.With(a.withHeld(ctx), a.sql.fence))
	defer cancel(nil)
	lease := keep(ctx, a.conn, &a.sql, a.isMock(), a.asked, func() {
		a.sql.fence.End()
		cancel(ErrLost)
	})
	returned := false
	defer func() {
		a.sql.fence.End()
		if !returned { // a panic, or runtime.Goexit
			_ = lease.end()
			a.rollback(ctx)
		}
	}()
	err := fn(fnCtx)
	returned = true
	if errors.Is(err, bridge.ErrNothing) {
		a.Record, err = nil, nil
	}
	if gone := lease.end(); gone != nil {
		a.rollback(ctx)
		return a.leaseLost(gone, err)
	}
	if err != nil {
		if a.rollback(ctx) {
			return a.leaseLost(errors.New("the session is gone"), err)
		}
		return bounded.Ended(ctx, err)
	}
	if err := a.record(ctx); err != nil {
		if a.rollback(ctx) || sqlstate.Lost(err) {
			return a.leaseLost(fmt.Errorf("record: %w", errors.Unwrap(err)), nil)
		}
		return err
	}
	err = a.step(ctx, locktrace.Commit, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, endTime)
		defer cancel()
		return a.conn.Commit(ctx)
	})
	if err != nil {
		return a.leaseLost(fmt.Errorf("commit: %w", errors.Unwrap(err)), nil)
	}
	return nil
}

// record does in the lock's own transaction what is committed together with the end of
// the lock.
func (a *acquisition) record(ctx context.Context) error {
	if a.Record == nil {
		return nil
	}
	return a.step(ctx, locktrace.Record, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, endTime)
		defer cancel()
		return a.Record(ctx, a.conn.Exec)
	})
}

// leaseLost is ErrLost, because of why, with what fn returned.
func (a *acquisition) leaseLost(why, err error) error {
	if err != nil && !errors.Is(err, ErrLost) {
		why = fmt.Errorf("%w; the function returned: %w", why, err)
	}
	lost := fmt.Errorf("%w: %w", ErrLost, why)
	if a.For != "" {
		return a.failed(a.For, lost)
	}
	return fmt.Errorf("%s %s: %w", a.Op, a.title(), lost)
}
