package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
)

// A ring is processes that take one lock in turns.
type ring struct {
	lock   locker
	key    advisorylock.Key
	turn   func(ctx context.Context) // what a process does with the lock
	polite bool                      // it asks again only when another one has had it

	mu       sync.Mutex
	inside   int
	entered  chan struct{} // closed when the next one is inside
	released time.Time     // by the last one; zero: by none yet
	turns    []float64     // of each process
	handoffs []float64     // ms from a release to the next turn
	err      error         // the first
}

var errOverlap = errors.New("two have the lock at the same time")

func newRing(lock locker, key advisorylock.Key, processes int, turn func(ctx context.Context)) *ring {
	return &ring{lock: lock, key: key, turn: turn, turns: make([]float64, processes), entered: make(chan struct{})}
}

// run returns when over has ended and all processes have had the lock that they
// were waiting for. Only ctx cancels them.
func (r *ring) run(ctx, over context.Context, driver, dsn string) {
	var all sync.WaitGroup
	for i := range r.turns {
		all.Go(func() {
			r.failed(withPool(driver, dsn, func(db *sql.DB) error { return r.process(ctx, over, i, db) }))
		})
	}
	all.Wait()
}

func (r *ring) process(ctx, over context.Context, i int, db *sql.DB) error {
	for over.Err() == nil {
		var next <-chan struct{}
		err := r.lock(ctx, db, r.key, func(context.Context) (err error) { next, err = r.enter(over, i); return err })
		if err != nil {
			return err
		}
		if r.polite {
			select {
			case <-next:
			case <-over.Done():
			}
		}
	}
	return nil
}

// enter is a turn. The channel is closed when the next one begins.
func (r *ring) enter(over context.Context, i int) (next <-chan struct{}, err error) {
	now := time.Now()
	r.mu.Lock()
	if r.inside++; r.inside > 1 {
		err = errOverlap
	}
	if over.Err() == nil {
		r.turns[i]++
		if !r.released.IsZero() {
			r.handoffs = append(r.handoffs, milliseconds(now.Sub(r.released)))
		}
	}
	close(r.entered)
	r.entered = make(chan struct{})
	next = r.entered
	r.mu.Unlock()
	r.turn(over)
	r.mu.Lock()
	r.inside--
	r.released = time.Now()
	r.mu.Unlock()
	return next, err
}

func (r *ring) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

// pause returns after d, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// turning runs rings side by side for so long.
func (l *lab) turning(p place, long time.Duration, rings func() []*ring, figures func(rings []*ring) []float64) runnable {
	return func(ctx context.Context) (figure, error) {
		dsn, err := l.fresh(ctx, p, l.driver)
		if err != nil {
			return figure{}, err
		}
		ctx, cancel := context.WithTimeout(ctx, long+time.Minute)
		defer cancel()
		over, cancel := context.WithTimeout(ctx, long)
		defer cancel()
		all := rings()
		var running sync.WaitGroup
		for _, r := range all {
			running.Go(func() { r.run(ctx, over, l.driver, dsn) })
		}
		running.Wait()
		f := figure{values: figures(all), hung: ctx.Err() != nil}
		for _, r := range all {
			f.failure(r.err)
		}
		return f, nil
	}
}

// mutex has processes take a lock again and again.
func (l *lab) mutex(long time.Duration) func(s situation, lock locker) runnable {
	return func(s situation, lock locker) runnable {
		return l.turning(s.place, long, func() []*ring {
			return []*ring{newRing(lock, 1, s.n, func(ctx context.Context) { pause(ctx, s.work) })}
		}, func(rings []*ring) []float64 {
			turns := rings[0].turns
			total := 0.0
			for _, n := range turns {
				total += n
			}
			return []float64{total, slices.Min(turns), slices.Max(turns)}
		})
	}
}

const turnUnits = "turns · least and most of a process"

var work = []time.Duration{time.Millisecond, 20 * time.Millisecond}

func mutexOfTransactions(l *lab, long time.Duration) table {
	return compare(table{name: "mutex, WithXactLock", units: turnUnits, ratios: [][2]int{{0, 1}}}, []contestant[locker]{
		{name: "bootlock", with: xactLock},
		{name: "pg_advisory_xact_lock", with: plainXact},
	}, situations([]place{{}}, []int{2, 8, 32}, work...), l.mutex(long))
}

func mutexOfLeases(l *lab, long time.Duration) table {
	return compare(table{name: "mutex, Hold", units: turnUnits, ratios: [][2]int{{0, 1}, {0, 2}}}, []contestant[locker]{
		{name: "bootlock", with: advisorylock.Hold},
		{name: "polling by hand", with: polling},
		{"pg_advisory_lock", plain, true},
	}, situations([]place{{}, {pool: 4}}, []int{2, 8}, work...), l.mutex(long))
}

// wait is about how long a waiter waits for its turn, whatever their number: a
// waiter that polls does so more and more rarely.
const wait = 1500 * time.Millisecond

// handingOver runs several small rings at once, since few waiters make few
// handoffs. Turns are of random length, so that a release falls
// anywhere between two attempts of a waiter.
func (l *lab) handingOver(s situation, long time.Duration, lock locker) runnable {
	return l.turning(s.place, long, func() (rings []*ring) {
		mean := wait / time.Duration(s.n)
		for key := range max(1, 16/s.n) {
			r := newRing(lock, advisorylock.Key(key), s.n+1, func(ctx context.Context) { pause(ctx, rand.N(2*mean)) })
			r.polite = true
			rings = append(rings, r)
		}
		return rings
	}, func(rings []*ring) []float64 {
		var all []float64
		for _, r := range rings {
			all = append(all, r.handoffs...)
		}
		return []float64{median(all), quantile(all, 99), float64(len(all))}
	})
}

// waysToWait are compared in handoff and waiting.
var waysToWait = []contestant[locker]{
	{"Hold", advisorylock.Hold, false},
	{"WithXactLock", xactLock, false},
	{"polling by hand", polling, false},
	{"pg_advisory_lock", plain, true},
	{"pg_advisory_xact_lock", plainXact, true},
}

var placesToWait = []place{{}, {pool: 20}}

func handoff(l *lab, long time.Duration) table {
	t := table{name: "handoff", units: "ms from the release to the next turn: p50 · p99 · how many"}
	return compare(t, waysToWait, situations(placesToWait, []int{2, 8, 32}),
		func(s situation, lock locker) runnable { return l.handingOver(s, long, lock) })
}

// waiting measures what waiters cost the server; a holder's heartbeats are in it.
func waiting(l *lab, long time.Duration) table {
	units := fmt.Sprintf("statements a second and waiter, after 1 s and after %v · ms of CREATE INDEX CONCURRENTLY, alone and beside them", long)
	return compare(table{name: "waiting", units: units}, waysToWait, situations(placesToWait, []int{20}),
		func(s situation, lock locker) runnable { return l.beside(s.place, long, lock, s.n) })
}

func (l *lab) beside(p place, long time.Duration, lock locker, waiters int) runnable {
	return func(ctx context.Context) (f figure, err error) {
		dsn, err := l.fresh(ctx, p, l.driver)
		if err != nil {
			return f, err
		}
		alone, err := l.index(ctx)
		if err != nil {
			return f, err
		}
		var (
			all           sync.WaitGroup
			errs          = make(chan error, waiters)
			first, second float64
			beside        float64
		)
		hold := func(fn func() error) error {
			return withPool(l.driver, dsn, func(db *sql.DB) error {
				return lock(ctx, db, 1, func(context.Context) error { return fn() })
			})
		}
		f.failure(hold(func() (err error) {
			for range waiters {
				all.Go(func() { errs <- hold(func() error { return nil }) })
			}
			began := time.Now()
			if first, err = l.rate(ctx, began.Add(time.Second)); err != nil {
				return err
			}
			if second, err = l.rate(ctx, began.Add(long)); err != nil {
				return err
			}
			beside, err = l.index(ctx)
			return err
		}))
		all.Wait()
		close(errs)
		for err := range errs {
			f.failure(err)
		}
		f.values = []float64{first / float64(waiters), second / float64(waiters), alone, beside}
		return f, nil
	}
}

// rate is how many statements are sent in the second that begins at from.
func (l *lab) rate(ctx context.Context, from time.Time) (float64, error) {
	pause(ctx, time.Until(from))
	before, err := l.statements(ctx)
	if err != nil {
		return 0, err
	}
	pause(ctx, time.Second)
	after, err := l.statements(ctx)
	return after - before, err
}

// index returns how long CREATE INDEX CONCURRENTLY takes, five seconds at most.
func (l *lab) index(ctx context.Context) (took float64, err error) {
	conn, err := l.admin.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	exec := func(statement string) {
		if err == nil {
			_, err = conn.ExecContext(ctx, statement)
		}
	}
	exec("CREATE SCHEMA IF NOT EXISTS " + prefix + "index")
	exec("CREATE TABLE IF NOT EXISTS " + prefix + "index.numbers AS SELECT generate_series(1, 1000) AS n")
	exec("SET statement_timeout = '5s'")
	began := time.Now()
	exec("CREATE INDEX CONCURRENTLY ON " + prefix + "index.numbers (n)")
	took = milliseconds(time.Since(began))
	var state interface{ SQLState() string }
	if errors.As(err, &state) && state.SQLState() == "57014" { // the five seconds are over
		err = nil
	}
	exec("RESET statement_timeout")
	return took, err
}
