//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// usePool is what a migration does: it works with the pool, beside the
// transaction that has the lock.
func usePool(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE t ()")
	return err
}

// goAll runs n calls at once and returns their errors when all have ended.
func goAll(n int, call func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			<-start
			errs[i] = call(i)
		}()
	}
	close(start)
	wg.Wait()
	return errs
}

// N goroutines that wait for one lock on a pool of N hold every connection, and
// the one that has the lock waits for ever for the connection that its callback
// needs (checkstack#233 removed its helper for that).
func TestManyCallersOnASmallPool(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]int{"same key": 1, "different keys": 60} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, waiters, func(t *testing.T, f form, _ *recdriver.Driver, db *sql.DB) {
				db.SetMaxOpenConns(3)
				var inside, most atomic.Int64
				errs := goAll(60, func(i int) error {
					return f.call(advisorylock.Locker{}, t.Context(), db, key+advisorylock.Key(i%keys), func(ctx context.Context) error {
						now := inside.Add(1)
						defer inside.Add(-1)
						for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
						}
						err := usePool(ctx, db)
						time.Sleep(1500 * time.Millisecond) // and a heartbeat of Hold's
						return errors.Join(err, usePool(ctx, db))
					})
				})
				if err := errors.Join(errs...); err != nil {
					t.Error(err)
				}
				checkSame(t, "callbacks at once", most.Load(), min(int64(keys), 2))
			})
		})
	}
}

// queued starts call after call, each when the one before has found its place.
func queued(n int, call func(i int)) (wait func()) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { call(i) })
		synctest.Wait()
	}
	return wg.Wait
}

func TestFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	for name, keyOf := range map[string]func(i int) advisorylock.Key{
		"for a key":        func(int) advisorylock.Key { return key },
		"for a connection": func(i int) advisorylock.Key { return key + advisorylock.Key(i) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				db.SetMaxOpenConns(2)
				var order []int
				wait := queued(30, func(i int) {
					err := advisorylock.WithXactLock(t.Context(), db, keyOf(i), func(context.Context, *sql.Tx) error {
						time.Sleep(time.Minute)
						order = append(order, i) // one at a time
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				})
				wait()
				if !slices.IsSorted(order) || len(order) != 30 {
					t.Errorf("got %v; want 0 to 29 in order", order)
				}
				checkSame(t, "connections", strings.Count(d.String(), "connect"), 1) // waiters in the process cost none
			})
		})
	}
}

// A waiter that gives up leaves no gap, wherever it stands.
func TestWaiterGivesUp(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		ctx, cancel := context.WithCancelCause(t.Context())
		var done []int
		wait := queued(4, func(i int) {
			own := t.Context()
			var r locktrace.Recorder
			if i == 1 || i == 2 {
				own = ctx
			}
			err := f.call(advisorylock.Locker{Trace: r.Trace()}, own, db, key, func(context.Context) error {
				done = append(done, i)
				time.Sleep(time.Minute)
				return nil
			})
			if own == t.Context() {
				if err != nil {
					t.Error(err)
				}
				return
			}
			checkEnded(t, err, f.op, locktrace.Connect)
			var wait *advisorylock.WaitError
			if !errors.As(err, &wait) || wait.Key != key {
				t.Errorf("got %v; want a WaitError", err)
			}
			checkSame(t, "steps", r.String(), "connect!")
		})
		cancel(errShutdown)
		wait()
		if !slices.Equal(done, []int{0, 3}) {
			t.Errorf("got %v; want calls 0 and 3", done)
		}
	})
}

// A context that ends in the very moment of the turn is as good as any other:
// nobody behind waits for ever. The hook keeps the waiter busy until both have
// happened, and which of them it sees first is a matter of luck.
func TestTurnAtTheMomentOfCancellation(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
		for range 20 {
			ctx, cancel := context.WithCancelCause(t.Context())
			free, gone := make(chan struct{}), make(chan struct{})
			unlucky := advisorylock.Locker{Trace: &locktrace.Trace{Waiting: func(context.Context, locktrace.Wait) {
				close(free)
				<-gone
				cancel(errShutdown)
			}}}
			wait := queued(3, func(i int) {
				var err error
				switch i {
				case 0:
					err = advisorylock.WithXactLock(t.Context(), db, key, func(context.Context, *sql.Tx) error { <-free; return nil })
					close(gone)
				case 1:
					checkEnded(t, unlucky.WithXactLock(ctx, db, key, unreachable(t)), "WithXactLock", locktrace.Connect)
				case 2:
					err = advisorylock.WithXactLock(t.Context(), db, key, nothing)
				}
				if err != nil {
					t.Error(err)
				}
			})
			wait()
		}
	})
}

// A program that works through many keys, a tenant each, must not collect them.
func TestKeysAreForgotten(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
		lockHere(t, db, key)
		for i := range 50 {
			checkIs(t, advisorylock.WithXactLock(t.Context(), db, key+1+advisorylock.Key(i), nothing), nil)
		}
		checkSame(t, "keys, one of which is held", advisorylock.Keys(db), 1)
	})
}

// PostgreSQL cannot see that the two connections belong together, and would let
// them wait for each other for ever.
func TestNested(t *testing.T) {
	t.Parallel()
	for _, outer := range forms {
		t.Run(outer.op, func(t *testing.T) {
			t.Parallel()
			each(t, forms, func(t *testing.T, inner form, d *recdriver.Driver, db *sql.DB) {
				call := func(ctx context.Context, db *sql.DB, key advisorylock.Key) error {
					return inner.call(advisorylock.Locker{}, ctx, db, key, noFn)
				}
				other := recdriver.New().OpenDB() // another database
				defer other.Close()
				err := outer.call(advisorylock.Locker{}, t.Context(), db, key, func(ctx context.Context) error {
					begun := time.Now()
					err := call(ctx, db, key)
					checkIs(t, err, advisorylock.ErrNested)
					checkStep(t, err, "advisorylock."+inner.op, "42", locktrace.Lock, "lock: "+advisorylock.ErrNested.Error())
					checkSame(t, "time taken", time.Since(begun), 0)
					if err := call(ctx, db, key+1); err != nil {
						t.Errorf("another key: %v", err)
					}
					if err := call(ctx, other, key); err != nil {
						t.Errorf("the same key in another database: %v", err)
					}
					return advisorylock.WithXactLock(ctx, db, key+3, func(ctx context.Context, _ *sql.Tx) error {
						checkIs(t, call(ctx, db, key), advisorylock.ErrNested)
						return nil
					})
				})
				if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A context may outlive the call that made it: in a goroutine, in a struct.
func TestContextOfAFinishedCallIsNotNested(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, _ *recdriver.Driver, db *sql.DB) {
		db.SetMaxOpenConns(2) // too few for a nested call
		kept := t.Context()
		for _, end := range []error{nil, errors.New("boom")} {
			err := advisorylock.WithXactLock(t.Context(), db, key, func(ctx context.Context, _ *sql.Tx) error {
				kept = ctx
				return end
			})
			checkIs(t, err, end)
			checkIs(t, f.call(advisorylock.Locker{}, kept, db, key, noFn), nil)
		}
	})
}

func TestPoolTooSmall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		size   int
		outer  int // locks that the caller has already
		lease  bool
		tooFew bool
	}{
		{"lock on one", 1, 0, false, false},
		{"lease on one", 1, 0, true, true},
		{"lock on two", 2, 0, false, false},
		{"lease on two", 2, 0, true, false},
		{"second on one", 1, 1, false, true},
		{"second on two", 2, 1, false, true},
		{"second on three", 3, 1, false, false},
		{"second lease on two", 2, 1, true, true},
		{"second lease on three", 3, 1, true, false},
		{"third on three", 3, 2, false, true},
		{"third on four", 4, 2, false, false},
		{"third without a limit", 0, 2, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set := xacts
			if tt.lease {
				set = leases
			}
			each(t, set, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				db.SetMaxOpenConns(tt.size)
				var sent string
				err := nest(t.Context(), db, key+1, tt.outer, func(ctx context.Context) error {
					d.Reset()
					err := f.call(advisorylock.Locker{}, ctx, db, key, noFn)
					sent = d.String()
					return err
				})
				if got := errors.Is(err, advisorylock.ErrPoolTooSmall); got != tt.tooFew || err != nil && !got {
					t.Errorf("got %v; want ErrPoolTooSmall: %t", err, tt.tooFew)
				}
				if tt.tooFew {
					checkSame(t, "calls", sent, "")
					checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Connect,
						"connect: advisorylock: the pool is too small: raise SetMaxOpenConns, or lock on a pool of its own")
				}
			})
		})
	}
}

// nest runs fn inside depth locks of different keys.
func nest(ctx context.Context, db *sql.DB, key advisorylock.Key, depth int, fn func(ctx context.Context) error) error {
	if depth == 0 {
		return fn(ctx)
	}
	return advisorylock.WithXactLock(ctx, db, key, func(ctx context.Context, _ *sql.Tx) error {
		return nest(ctx, db, key+1, depth-1, fn)
	})
}

// Two calls that have a lock each and both want a second one would wait for each
// other if the pool has no third for either. One of them is told, and the other
// goes on.
func TestNestedCallsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, _ *recdriver.Driver, db *sql.DB) {
		const callers = 3
		db.SetMaxOpenConns(callers + 1)
		var barrier sync.WaitGroup
		barrier.Add(callers)
		errs := goAll(callers, func(i int) error {
			return f.call(advisorylock.Locker{}, t.Context(), db, key+advisorylock.Key(i), func(ctx context.Context) error {
				barrier.Done()
				barrier.Wait()
				return advisorylock.WithXactLock(ctx, db, key+advisorylock.Key(100+i), nothing)
			})
		})
		failed := 0
		for _, err := range errs {
			if errors.Is(err, advisorylock.ErrPoolTooSmall) {
				failed++
			} else if err != nil {
				t.Error(err)
			}
		}
		checkSame(t, "calls with ErrPoolTooSmall, so that the others go on", failed, 1)
	})
}

// Calls that nest locks in opposite order would wait for each other for ever, and the
// server cannot know: one waits in the process. The one that closes the circle is told,
// and the others go on.
func TestOppositeOrder(t *testing.T) {
	t.Parallel()
	for name, callers := range map[string]int{"two": 2, "a ring of three": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, forms, func(t *testing.T, f form, _ *recdriver.Driver, db *sql.DB) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var barrier sync.WaitGroup
				barrier.Add(callers)
				errs := goAll(callers, func(i int) error {
					return f.call(advisorylock.Locker{}, ctx, db, key+advisorylock.Key(i), func(ctx context.Context) error {
						barrier.Done()
						barrier.Wait()
						time.Sleep(time.Duration(i) * time.Second)
						return advisorylock.WithXactLock(ctx, db, key+advisorylock.Key((i+1)%callers), nothing)
					})
				})
				if err := errors.Join(errs[:callers-1]...); err != nil {
					t.Errorf("got %v for those that waited already; want no error", err)
				}
				checkStep(t, errs[callers-1], "advisorylock.WithXactLock", "42", locktrace.Lock,
					"lock: advisorylock: another call has this lock and waits for a lock that this call has: take locks in the same order everywhere")
			})
		})
	}
}

// Not every waiter that has a lock is part of a circle.
func TestSameOrder(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, _ *recdriver.Driver, db *sql.DB) {
		errs := goAll(10, func(i int) error {
			first := key + 1 + advisorylock.Key(i)/2 // two callers for each
			return f.call(advisorylock.Locker{}, t.Context(), db, first, func(ctx context.Context) error {
				time.Sleep(time.Second)
				return f.call(advisorylock.Locker{}, ctx, db, key, func(context.Context) error { time.Sleep(time.Minute); return nil })
			})
		})
		checkIs(t, errors.Join(errs...), nil)
	})
}

// What a nested wait was counted with is forgotten when it is over, however it
// ended.
func TestNestedWaitsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, _ *recdriver.Driver, db *sql.DB) {
		db.SetMaxOpenConns(3)
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, func(ctx context.Context) error {
			for round := range 3 {
				time.AfterFunc(time.Minute, lockHere(t, db, key+1)) // has the other connection
				short, cancel := context.WithTimeout(ctx, time.Second)
				err := advisorylock.WithXactLock(short, db, key+2, unreachable(t))
				cancel()
				checkIs(t, err, context.DeadlineExceeded)
				if err := advisorylock.WithXactLock(ctx, db, key+2, nothing); err != nil {
					t.Errorf("round %d: got %v; want the lock when a connection is free", round, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// A callback may fan out: each of its goroutines takes a second lock with the callback's
// context, one after the other, and one chain of locks is counted once.
func TestFanOutTakesASecondKey(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
		db.SetMaxOpenConns(3)
		err := advisorylock.Hold(t.Context(), db, key, func(ctx context.Context) error {
			errs := make(chan error)
			for range 3 {
				go func() {
					errs <- advisorylock.WithXactLock(ctx, db, key+1, func(context.Context, *sql.Tx) error {
						time.Sleep(time.Second)
						return nil
					})
				}()
			}
			return errors.Join(<-errs, <-errs, <-errs)
		})
		if err != nil {
			t.Errorf("got %v; want all to take the second lock", err)
		}
	})
}

// The limit may change while calls are under way.
func TestPoolGrows(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
		db.SetMaxOpenConns(2)
		var inside atomic.Int64
		call := func(i int) {
			err := advisorylock.WithXactLock(t.Context(), db, key+advisorylock.Key(i), func(context.Context, *sql.Tx) error {
				inside.Add(1)
				time.Sleep(time.Minute)
				inside.Add(-1)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		wait := queued(3, call)
		db.SetMaxOpenConns(10)
		waitMore := queued(3, func(i int) { call(10 + i) })
		time.Sleep(time.Second)
		checkSame(t, "callbacks at once on a pool that has grown", inside.Load(), 6)
		wait()
		waitMore()
	})
}

func TestTryInTheProcess(t *testing.T) {
	t.Parallel()
	each(t, tries, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		lockHere(t, db, key)
		d.Reset()
		begun := time.Now()
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, uncalled(t))
		checkSame(t, "time taken", time.Since(begun), 0)
		checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Lock, "lock: "+advisorylock.ErrNotAcquired.Error())
		checkIs(t, err, advisorylock.ErrNotAcquired)
		checkSame(t, "calls", d.String(), "")
	})
}

func TestTryOnTheServer(t *testing.T) {
	t.Parallel()
	eachInEveryMode(t, tries, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		free := lockElsewhere(t, d, key)
		var r locktrace.Recorder
		l := advisorylock.Locker{Trace: r.Trace(), Name: "app"}
		err := f.call(l, t.Context(), db, key, uncalled(t))
		checkIs(t, err, advisorylock.ErrNotAcquired)
		checkStep(t, err, "advisorylock."+f.op, "app", locktrace.Lock, "lock: "+advisorylock.ErrNotAcquired.Error())
		if errors.As(err, new(*advisorylock.WaitError)) {
			t.Errorf("got a WaitError, %v, but nobody waited", err)
		}
		checkSame(t, "steps", r.String(), "connect > begin > lock! > rollback > release")
		if strings.Contains(d.String(), "query") {
			t.Errorf("got calls %s; want no look at who has the lock", d)
		}
		free()
		if err := f.call(l, t.Context(), db, key, noFn); err != nil {
			t.Errorf("after it was freed: %v", err)
		}
	})
}
