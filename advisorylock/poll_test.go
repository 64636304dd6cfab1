//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// Where a waiter stands, and what it keeps meanwhile.

// waitUntil has another process hold key for a time, waits for it with f, and
// checks that f had it then, or at most a tenth later.
func waitUntil(t *testing.T, f form, d *recdriver.Driver, db *sql.DB, freed time.Duration, l advisorylock.Locker) {
	t.Helper()
	begun := time.Now()
	time.AfterFunc(freed, lockElsewhere(t, d, key))
	entered := time.Duration(0)
	err := f.call(l, t.Context(), db, key, func(context.Context) error {
		entered = time.Since(begun)
		return nil
	})
	if limit := freed + freed/10; err != nil || entered < freed || entered > limit {
		t.Errorf("got %v, and the lock after %v; want it by %v", err, entered, limit)
	}
}

// seen is what a waiter has at one moment.
type seen struct {
	queued int64 // sessions in the server's queue
	inUse  int   // connections out of the pool
	open   int   // connections
}

// sample looks many times, from one moment to another, and returns what it saw each
// time, or fails if that was not always the same.
func sample(t *testing.T, d *recdriver.Driver, db *sql.DB, from, to time.Duration) (result func() seen) {
	var all []seen
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(from)
		for range 100 {
			time.Sleep((to - from) / 100)
			all = append(all, seen{int64(d.Server().Waiting()[int64(key)]), db.Stats().InUse, d.Open()})
		}
	}()
	return func() seen {
		<-done
		for _, s := range all {
			if s != all[0] {
				t.Errorf("got %+v and then %+v; want the same all the time", all[0], s)
				break
			}
		}
		return all[0]
	}
}

// A connection behind a pooler is used by others, and among them is the one that the
// waiter waits for: it must not sit on it. The holder of WithXactLock needs no other
// connection than its own.
func TestWhereAWaiterStands(t *testing.T) {
	t.Parallel()
	queues, polls := seen{queued: 1, inUse: 1, open: 1}, seen{open: 1}
	for name, tt := range map[string]struct {
		prepare     func(d *recdriver.Driver)
		xact, lease seen
	}{
		"direct":              {func(*recdriver.Driver) {}, queues, queues},
		"pooled":              {func(d *recdriver.Driver) { d.Server().SetPooled(true) }, queues, polls},
		"no right to plpgsql": {func(d *recdriver.Driver) { d.Server().SetPlain(true) }, polls, polls},
		"no plpgsql": {func(d *recdriver.Driver) {
			d.OnCall(recdriver.FailOn(recdriver.Exec, "DO $bootlock$", 0, recdriver.SQLError{Code: "42704", Message: `language "plpgsql" does not exist`}))
		}, polls, polls},
		"no right to count": {func(d *recdriver.Driver) {
			d.OnCall(recdriver.FailOn(recdriver.Exec, "pg_stat_get_activity", 0, recdriver.SQLError{Code: "42501", Message: "permission denied for table pg_database"}))
		}, queues, polls},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				tt.prepare(d)
				stands := sample(t, d, db, time.Second, 19*time.Second)
				waitUntil(t, f, d, db, 20*time.Second, advisorylock.Locker{})
				want := tt.xact
				if f.lease {
					want = tt.lease
				}
				checkSame(t, "what it has", stands(), want)
				if want == polls {
					checkPolls(t, d, 20*time.Second)
				}
			})
		})
	}
}

// checkPolls checks that a waiter began a transaction only when the lock seemed free,
// and did not poll too often.
func checkPolls(t *testing.T, d *recdriver.Driver, freed time.Duration) {
	t.Helper()
	calls := d.Calls()
	polls := 0
	for _, c := range calls {
		at := c.Start.Sub(calls[0].Start)
		if c.Kind == recdriver.Begin && at > time.Second && at < freed {
			t.Errorf("began a transaction after %v; want it only when the lock is free", at)
		}
		if c.Kind == recdriver.Exec {
			polls++
		}
	}
	if most := int(freed / (100 * time.Millisecond)); polls > most {
		t.Errorf("got %d polls in %v; want %d at most", polls, freed, most)
	}
}

// A waiter for a lock that is free does not need plpgsql, and a try never does.
func TestWithoutPLpgSQL(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.Server().SetPlain(true)
		if err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn); err != nil {
			t.Errorf("a free lock: got %v", err)
		}
		if !f.try {
			return
		}
		lockElsewhere(t, d, key)
		if err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn); !errors.Is(err, advisorylock.ErrNotAcquired) {
			t.Errorf("a lock that is held: got %v; want ErrNotAcquired", err)
		}
	})
}

// Where connections are short, the holder may need the very one that a waiter has,
// idle or not.
func TestWaiterKeepsNoConnectionWhereTheyAreShort(t *testing.T) {
	t.Parallel()
	for _, pooled := range []bool{false, true} {
		bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
			d.Server().SetPooled(pooled)
			d.Server().SetShort(true)
			stands := sample(t, d, db, time.Second, 9*time.Second)
			time.AfterFunc(10*time.Second, func() { d.Server().SetShort(false) })
			later := sample(t, d, db, 11*time.Second, 19*time.Second)
			waitUntil(t, pick(func(f form) bool { return f.op == "Hold" })[0], d, db, 20*time.Second, advisorylock.Locker{})
			checkSame(t, "what it has where connections are short", stands(), seen{})
			want := seen{queued: 1, inUse: 1, open: 1}
			if pooled {
				want = seen{open: 1}
			}
			checkSame(t, "what it has when there are more", later(), want)
		})
	}
}

// The shortage may last for as long as the holder does.
func TestLeaseWhereConnectionsStayShort(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.Server().SetShort(true)
		waitUntil(t, f, d, db, 12*time.Second, advisorylock.Locker{})
	})
}

var refusals = map[string]struct {
	kind recdriver.Kind
	step locktrace.Step
	err  error
}{
	"connect": {recdriver.Connect, locktrace.Connect, errFull},
	"begin":   {recdriver.Begin, locktrace.Begin, recdriver.SQLError{Code: "08P01", Message: "query_wait_timeout"}},
	"lock":    {recdriver.Exec, locktrace.Lock, recdriver.SQLError{Code: "57P03", Message: "the database system is shutting down"}},
}

// Nothing has happened when there is no connection, and later there will be one.
func TestNoConnectionIsAWait(t *testing.T) {
	t.Parallel()
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				if f.try && name == "lock" {
					t.Skip("a try does not go on after the lock statement failed")
				}
				const limit, until = 7 * time.Second, 12 * time.Second
				begun := time.Now()
				d.OnCall(func(_ context.Context, c *recdriver.Call) error {
					if c.Kind == refusal.kind && time.Since(begun) < until {
						return refusal.err
					}
					return nil
				})

				// until the context ends
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				err := f.call(advisorylock.Locker{}, ctx, db, key, uncalled(t))
				checkSame(t, "time taken", time.Since(begun), limit)
				checkIs(t, err, refusal.err, context.DeadlineExceeded)
				checkSame(t, "a WaitError", errors.As(err, new(*advisorylock.WaitError)), !f.try)
				checkStep(t, err, "advisorylock."+f.op, "42", refusal.step, "")

				// until there is a connection
				stands := sample(t, d, db, time.Second, 4*time.Second)
				var r locktrace.Recorder
				err = f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, noFn)
				if took := time.Since(begun); err != nil || took < until || took > until+(until-limit)/10 {
					t.Errorf("got %v after %v; want the lock soon after %v", err, took, until)
				}
				if w := r.Waits(); len(w) != 1 || !errors.Is(w[0].Err, refusal.err) {
					t.Errorf("got %+v; want one report, with the reason", w)
				}
				checkSame(t, "steps", r.String(), "connect > begin > lock > commit > release")
				checkSame(t, "what it has between two attempts", stands(), seen{})
			})
		})
	}
}

// Where no server answers there is nothing to wait for that could be known to come.
func TestServerThatCannotBeReached(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		d.OnCall(recdriver.FailOn(recdriver.Connect, "", 0, refused))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		err := f.call(advisorylock.Locker{}, ctx, db, key, noFn)
		if took := time.Since(begun); took != 0 || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v after %v; want connection refused, at once", err, took)
		}
		checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Connect, "connect: "+refused.Error())
	})
}

// The network may fall silent while the grant is under way and heal when the
// lease has long been given to somebody else.
func TestLateGrantIsNoGrant(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		const ttl = 2 * time.Second
		late := true
		d.OnCall(func(_ context.Context, c *recdriver.Call) error {
			if c.Kind == recdriver.Exec && strings.Contains(c.Query, "advisory_xact_lock") && late {
				late = false
				time.Sleep(ttl - ttl/10)
			}
			return nil
		})
		entered := 0
		begun := time.Now()
		err := f.call(advisorylock.Locker{TTL: ttl}, t.Context(), db, key, func(context.Context) error {
			entered++
			return nil
		})
		if f.try {
			if !errors.Is(err, advisorylock.ErrLost) || entered != 0 {
				t.Errorf("got %v, entered %d times; want ErrLost", err, entered)
			}
			return
		}
		if took := time.Since(begun); err != nil || entered != 1 || took > 3*ttl {
			t.Errorf("got %v, entered %d times after %v; want the next grant", err, entered, took)
		}
		if got := d.String(); !strings.Contains(got, "rollback > close > connect > begin > ") {
			t.Errorf("got %s; want a new transaction for it", got)
		}
	})
}

// A server that no longer answers must not be waited for, even if the context
// goes on for ever.
func TestWaiterComesBackFromASilentNetwork(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]time.Duration{"later": 5 * time.Second, "in the first burst": 100 * time.Millisecond, "at the first try": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				healed := make(chan struct{})
				var silent atomic.Bool
				silent.Store(from == 0)
				d.OnCall(answerLate(recdriver.Exec, func(ctx context.Context, conn int) {
					if conn == 1 && silent.Load() {
						select {
						case <-healed:
						case <-ctx.Done():
						}
					}
				}))
				time.AfterFunc(from, func() { silent.Store(true) })
				time.AfterFunc(10*time.Minute, func() { close(healed) })
				waitUntil(t, f, d, db, 2*time.Minute, advisorylock.Locker{})
				<-healed
			})
		})
	}
}

// What a standby grants excludes nobody. A call that begins on one is told so.
func TestStandby(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.Server().SetStandby(true)
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, uncalled(t))
		if !errors.Is(err, advisorylock.ErrUnsupported) || !strings.Contains(err.Error(), "target_session_attrs=primary") {
			t.Errorf("got %v; want ErrUnsupported, and what to do", err)
		}
		checkSame(t, "calls", d.String(), "connect > begin > exec > rollback > release")
	})
}

// A waiter may be led to a standby while the primary restarts. It looks for the
// primary, by another connection each time.
func TestWaiterIsLedToAStandby(t *testing.T) {
	t.Parallel()
	for _, pooled := range []bool{false, true} {
		each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
			d.Server().SetPooled(pooled)
			begun := time.Now()
			time.AfterFunc(2*time.Second, func() { d.Server().SetStandby(true) })
			time.AfterFunc(3*time.Second, lockElsewhere(t, d, key))
			time.AfterFunc(6*time.Second, func() { d.Server().SetStandby(false) })
			var r locktrace.Recorder
			err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, noFn)
			if took := time.Since(begun); err != nil || took < 6*time.Second || took > 8*time.Second {
				t.Errorf("got %v after %v; want the lock soon after the primary is there", err, took)
			}
			on := map[int]int{} // attempts on each connection, while there was only the standby
			for _, c := range d.Calls() {
				if at := c.Start.Sub(begun); at > 3*time.Second && at < 6*time.Second && c.Kind == recdriver.Begin {
					on[c.Conn]++
				}
			}
			for conn, n := range on {
				if n > 1 {
					t.Errorf("%d attempts on connection %d; want another one each time", n, conn)
				}
			}
			if len(on) < 3 {
				t.Errorf("got %d attempts in three seconds; want several", len(on))
			}
		})
	}
}
