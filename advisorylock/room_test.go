//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/internal/room"
)

// isBlocking reports whether c is a statement that blocked for the lock.
func isBlocking(c recdriver.Call) bool {
	return c.Kind == recdriver.Exec && c.End.Sub(c.Start) > 0
}

// waitUntil has another process hold key for a time, waits for it with f, and
// returns when f had it.
func waitUntil(t *testing.T, f form, d *recdriver.Driver, db *sql.DB, freed time.Duration, l advisorylock.Locker) time.Duration {
	t.Helper()
	begun := time.Now()
	time.AfterFunc(freed, lockElsewhere(t, d, key))
	entered := time.Duration(0)
	err := f.call(l, t.Context(), db, key, func(context.Context) error {
		entered = time.Since(begun)
		return nil
	})
	if err != nil {
		t.Errorf("got %v; want the lock", err)
	}
	return entered
}

// The session of a waiter behind a pooler is used by others, and among them is
// the one that it waits for: it must not sit on it.
func TestWaiterBehindAPoolerDoesNotBlock(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.Server().SetPooled(true)
		begun := time.Now()
		const freed = 30 * time.Second
		entered := waitUntil(t, f, d, db, freed, advisorylock.Locker{})
		if limit := freed + room.Burst; entered < freed || entered > limit {
			t.Errorf("had the lock after %v; want it by %v", entered, limit)
		}
		asks := 0
		for _, c := range d.Calls() {
			if isBlocking(c) && c.Start.Sub(begun) > 500*time.Millisecond {
				t.Errorf("blocked for %v after %v; want it only in the beginning", c.End.Sub(c.Start), c.Start.Sub(begun))
			}
			if c.Kind == recdriver.Exec {
				asks++
			}
			if c.Kind == recdriver.Begin && c.Start.Sub(begun) > time.Second && c.Start.Sub(begun) < freed {
				t.Errorf("began a transaction after %v; want it only when the lock looks free", c.Start.Sub(begun))
			}
		}
		if asks > 100 {
			t.Errorf("asked %d times in %v; want about one a second", asks, freed)
		}
	})
}

// A BEGIN that has to queue is the first sign of a pooler with too few
// connections.
func TestWaiterInACrowdDoesNotBlock(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.Server().SetPooled(true)
		for name, slow := range map[string]int{"from the beginning": 1, "later": 2} {
			d.Reset()
			begins := 0
			d.OnCall(func(_ context.Context, c *recdriver.Call) error {
				if c.Kind == recdriver.Begin {
					if begins++; begins >= slow {
						time.Sleep(110 * time.Millisecond)
					}
				}
				return nil
			})
			_ = waitUntil(t, f, d, db, 500*time.Millisecond, advisorylock.Locker{})
			blocked := 0
			for _, c := range d.Calls() {
				if isBlocking(c) {
					blocked++
				}
			}
			if blocked >= slow {
				t.Errorf("%s: blocked %d times; want no more once BEGIN had to queue", name, blocked)
			}
			begins = -1000
		}
	})
}

// Those who queue for a pooler's one connection come by in turn, each after as many
// others as the last time, so that each finds the mark that it expects, or none does. A
// thousand of them blocked for a second each, one after the other.
func TestWaiterThatQueuedDoesNotBlock(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		begun := time.Now()
		const quiet = 500 * time.Millisecond
		d.OnCall(func(_ context.Context, c *recdriver.Call) error {
			if c.Kind == recdriver.Begin && time.Since(begun) > quiet/2 {
				time.Sleep(110 * time.Millisecond)
			}
			return nil
		})
		_ = waitUntil(t, f, d, db, 5*time.Second, advisorylock.Locker{})
		for _, c := range d.Calls() {
			if isBlocking(c) && c.Start.Sub(begun) > quiet {
				t.Errorf("blocked for %v after %v; want it only in the beginning", c.End.Sub(c.Start), c.Start.Sub(begun))
			}
		}
	})
}

// Where connections are short, the one that works may need the very one that a
// waiter has, idle or not.
func TestWaiterLeavesAServerThatIsShortOfConnections(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.Server().SetShort(true)
		var open atomic.Int64
		open.Store(-1)
		time.AfterFunc(10*time.Second+500*time.Millisecond, func() { open.Store(int64(db.Stats().OpenConnections)) })
		const freed = 12 * time.Second
		entered := waitUntil(t, f, d, db, freed, advisorylock.Locker{})
		if limit := freed + room.Burst; entered < freed || entered > limit {
			t.Errorf("had the lock after %v; want it by %v", entered, limit)
		}
		if n := open.Load(); n != 0 {
			t.Errorf("a waiter had %d connections in the middle of its wait; want none", n)
		}
	})
}

// A role may lack the right to plpgsql, or a database plpgsql itself.
func TestWithoutPLpgSQL(t *testing.T) {
	t.Parallel()
	for _, l := range []advisorylock.Locker{{}, {Shared: true}} {
		each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
			d.Server().SetPlain(true)
			if err := f.call(l, t.Context(), db, key, func(context.Context) error { return nil }); err != nil {
				t.Errorf("a free lock: got %v", err)
			}
			if f.try {
				defer lockElsewhere(t, d, key)()
				err := f.call(l, t.Context(), db, key, func(context.Context) error { return nil })
				if !errors.Is(err, advisorylock.ErrNotAcquired) {
					t.Errorf("a lock that is held: got %v; want ErrNotAcquired", err)
				}
				return
			}
			const freed = 20 * time.Second
			if entered, limit := waitUntil(t, f, d, db, freed, l), freed+room.Burst; entered < freed || entered > limit {
				t.Errorf("had the lock after %v; want it by %v", entered, limit)
			}
		})
	}
}

// Nothing has happened when there is no connection, and later there will be one.
func TestNoConnectionIsAWait(t *testing.T) {
	t.Parallel()
	full := recdriver.SQLError{Code: "53300", Message: "sorry, too many clients already"}
	pooler := recdriver.SQLError{Code: "08P01", Message: "query_wait_timeout"}
	for name, refuse := range map[string]struct {
		kind recdriver.Kind
		err  error
	}{"connect": {recdriver.Connect, full}, "begin": {recdriver.Begin, pooler}, "lock": {recdriver.Exec, recdriver.SQLError{Code: "57P03", Message: "the database system is shutting down"}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				if f.try && name == "lock" {
					t.Skip("a try does not go on after the lock statement failed")
				}
				begun := time.Now()
				const until = 5 * time.Second
				d.OnCall(func(_ context.Context, c *recdriver.Call) error {
					if c.Kind == refuse.kind && time.Since(begun) < until {
						return refuse.err
					}
					return nil
				})
				var r locktrace.Recorder
				err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, func(context.Context) error { return nil })
				if took := time.Since(begun); err != nil || took < until || took > until+room.Burst {
					t.Errorf("got %v after %v; want the lock soon after %v", err, took, until)
				}
				if w := r.Waits(); len(w) != 1 || !errors.Is(w[0].Err, refuse.err) {
					t.Errorf("got %+v; want one report of what is waited for", w)
				}
			})
		})
	}
}

func TestNoConnectionUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	full := recdriver.SQLError{Code: "53300", Message: "sorry, too many clients already"}
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.OnCall(recdriver.FailOn(recdriver.Connect, "", 0, full))
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		begun := time.Now()
		err := f.call(advisorylock.Locker{}, ctx, db, key, func(context.Context) error { return nil })
		var wait *advisorylock.WaitError
		if took := time.Since(begun); took != 7*time.Second || !errors.As(err, &wait) || !errors.Is(err, full) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v after %v; want a WaitError with both reasons, after 7 s", err, took)
		}
		checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Connect, "")
	})
}

// The network may fall silent while the grant is under way and heal when the
// lease has long been given to somebody else.
func TestLateGrantIsNoGrant(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		const short = 2 * time.Second
		late := true
		d.OnCall(func(_ context.Context, c *recdriver.Call) error {
			if c.Kind == recdriver.Exec && strings.Contains(c.Query, "advisory_xact_lock") && late {
				late = false
				time.Sleep(short - short/10)
			}
			return nil
		})
		entered := 0
		begun := time.Now()
		err := f.call(advisorylock.Locker{TTL: short}, t.Context(), db, key, func(context.Context) error {
			entered++
			return nil
		})
		if f.try {
			if !errors.Is(err, advisorylock.ErrLost) || entered != 0 {
				t.Errorf("got %v, entered %d times; want ErrLost", err, entered)
			}
			return
		}
		if took := time.Since(begun); err != nil || entered != 1 || took > short {
			t.Errorf("got %v, entered %d times after %v; want the next grant", err, entered, took)
		}
		if n := len(d.Calls()); n < 6 {
			t.Errorf("got %s; want a new transaction for it", d)
		}
	})
}

// A server that no longer answers must not be waited for, even if the context
// goes on for ever.
func TestWaiterComesBackFromASilentNetwork(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		healed := make(chan struct{})
		var silent atomic.Bool
		d.OnCall(func(ctx context.Context, c *recdriver.Call) error {
			if !silent.Load() || c.Conn != 1 || c.Kind != recdriver.Exec {
				return nil
			}
			select {
			case <-healed:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		time.AfterFunc(5*time.Second, func() { silent.Store(true) })
		const freed = 2 * time.Minute
		entered := waitUntil(t, f, d, db, freed, advisorylock.Locker{})
		if limit := freed + 2*time.Minute; entered < freed || entered > limit {
			t.Errorf("had the lock after %v; want it by %v", entered, limit)
		}
		close(healed)
	})
}

// Goroutines of one function that take a second key each wait for each other,
// and not for the pool: the connection of their own lock is one, however many of
// them there are.
func TestFanOutTakesASecondKey(t *testing.T) {
	t.Parallel()
	for _, size := range []int{3, 10} { // two for locks are just enough
		bubble(t, recdriver.Plain, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
			db.SetMaxOpenConns(size)
			err := advisorylock.Hold(t.Context(), db, key, func(ctx context.Context) error {
				wait := queued(50, func(int) {
					err := advisorylock.WithXactLock(ctx, db, key+1, func(context.Context, *sql.Tx) error {
						time.Sleep(time.Second)
						return nil
					})
					if err != nil {
						t.Errorf("a pool of %d: %v", size, err)
					}
				})
				wait()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Sharers that overlap never let the lock go. Whoever wants it alone must stand
// in the server's queue, behind a pooler too.
func TestSharersDoNotStarveAWaiterBehindAPooler(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.Server().SetPooled(true)
		done := make(chan struct{})
		ended := make(chan struct{})
		const sharers = 3
		for n := range sharers {
			other := elsewhere(t, d)
			go func() {
				defer func() { ended <- struct{}{} }()
				time.Sleep(time.Duration(n) * 800 * time.Millisecond)
				for {
					select {
					case <-done:
						return
					default:
					}
					err := advisorylock.Locker{Shared: true}.WithXactLock(t.Context(), other, key, func(context.Context, *sql.Tx) error {
						time.Sleep(2500 * time.Millisecond)
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			}()
		}
		time.Sleep(3 * time.Second)
		begun := time.Now()
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, func(context.Context) error { return nil })
		if took := time.Since(begun); err != nil || took > 8*time.Second {
			t.Errorf("got %v after %v; want the lock when those who shared it are done", err, took)
		}
		close(done)
		for range sharers {
			<-ended
		}
	})
}

// Where the language itself is missing the server says so with another code.
func TestPLpgSQLIsMissing(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.OnCall(recdriver.FailOn(recdriver.Exec, "DO $bootlock$", 0, recdriver.SQLError{Code: "42704", Message: `language "plpgsql" does not exist`}))
		if !f.try {
			time.AfterFunc(5*time.Second, lockElsewhere(t, d, key))
		}
		if err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn); err != nil {
			t.Errorf("got %v; want the lock", err)
		}
	})
}
