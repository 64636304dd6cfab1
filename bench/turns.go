package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
)

// A ring is processes that take one lock in turns.
type ring struct {
	lock locker
	turn func(ctx context.Context) // what a process does with the lock

	mu     sync.Mutex
	inside int
	turns  []float64 // of each process
	err    error     // the first
}

var errOverlap = errors.New("two have the lock at the same time")

func newRing(lock locker, processes int, turn func(ctx context.Context)) *ring {
	return &ring{lock: lock, turn: turn, turns: make([]float64, processes)}
}

// run returns when over has ended and all processes have had the lock that they
// were waiting for. Only ctx cancels them.
func (r *ring) run(ctx, over context.Context, driver, dsn string) {
	var all sync.WaitGroup
	for i := range r.turns {
		all.Go(func() {
			r.failed(withPool(driver, dsn, func(db *sql.DB) (err error) {
				for over.Err() == nil && err == nil {
					err = r.lock(ctx, db, 1, func(context.Context) error { return r.enter(over, i) })
				}
				return err
			}))
		})
	}
	all.Wait()
}

// enter is a turn.
func (r *ring) enter(over context.Context, i int) (err error) {
	r.mu.Lock()
	if r.inside++; r.inside > 1 {
		err = errOverlap
	}
	if over.Err() == nil {
		r.turns[i]++
	}
	r.mu.Unlock()
	r.turn(over)
	r.mu.Lock()
	r.inside--
	r.mu.Unlock()
	return err
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

// mutex has processes take a lock again and again for so long.
func (l *lab) mutex(long time.Duration) func(s situation, lock locker) runnable {
	return func(s situation, lock locker) runnable {
		return func(ctx context.Context) (f figure, err error) {
			dsn, err := l.fresh(ctx, s.place, l.driver)
			if err != nil {
				return f, err
			}
			ctx, cancel := context.WithTimeout(ctx, long+time.Minute)
			defer cancel()
			over, cancel := context.WithTimeout(ctx, long)
			defer cancel()
			r := newRing(lock, s.n, func(ctx context.Context) { pause(ctx, s.work) })
			r.run(ctx, over, l.driver, dsn)
			total := 0.0
			for _, n := range r.turns {
				total += n
			}
			f = figure{values: []float64{total, slices.Min(r.turns), slices.Max(r.turns)}, hung: ctx.Err() != nil}
			f.failure(r.err)
			return f, nil
		}
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

// waiting measures how long CREATE INDEX CONCURRENTLY takes beside waiters.
func waiting(l *lab, long time.Duration) table {
	t := table{name: "waiting", units: "ms of CREATE INDEX CONCURRENTLY, alone and beside the waiters"}
	return compare(t, []contestant[locker]{
		{name: "Hold", with: advisorylock.Hold},
		{name: "WithXactLock", with: xactLock},
		{name: "polling by hand", with: polling},
		{"pg_advisory_lock", plain, true},
		{"pg_advisory_xact_lock", plainXact, true},
	}, situations([]place{{}, {pool: 20}}, []int{20}), func(s situation, lock locker) runnable { return l.beside(s, long, lock) })
}

// beside lets waiters wait for so long first: those that poll do so more and more
// rarely.
func (l *lab) beside(s situation, long time.Duration, lock locker) runnable {
	return func(ctx context.Context) (f figure, err error) {
		dsn, err := l.fresh(ctx, s.place, l.driver)
		if err != nil {
			return f, err
		}
		alone, err := l.index(ctx)
		if err != nil {
			return f, err
		}
		var (
			all    sync.WaitGroup
			errs   = make(chan error, s.n)
			beside float64
		)
		hold := func(fn func() error) error {
			return withPool(l.driver, dsn, func(db *sql.DB) error {
				return lock(ctx, db, 1, func(context.Context) error { return fn() })
			})
		}
		f.failure(hold(func() (err error) {
			for range s.n {
				all.Go(func() { errs <- hold(func() error { return nil }) })
			}
			pause(ctx, long)
			beside, err = l.index(ctx)
			return err
		}))
		all.Wait()
		close(errs)
		for err := range errs {
			f.failure(err)
		}
		f.values = []float64{alone, beside}
		return f, nil
	}
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
