//go:build unix

package soak

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A control leaves out what is tested: a check that finds nothing proves nothing.
const (
	noLock  = "no lock"
	noFence = "no fence"
)

// The keys of Hold and those of WithXactLock have counters. The latter waits for no
// fence, so that a key of both has none. On the slow ones sections last.
const (
	holdKeys, slowHoldKey = 100, 150
	xactKeys, slowXactKey = 200, 250
	slowMixedKey          = 350
	fastKeys              = 24 // of each kind
	quickLoops            = 3  // of each process
)

// job is what a process is told by its environment.
type job struct {
	Number        int
	Driver        string
	Locks, Writes string // DSNs
	Control       string
}

type worker struct {
	job
	locks, writes *sql.DB

	mu       sync.Mutex
	out      *json.Encoder
	sections int
}

// work takes locks until in ends, and says on out what it sees.
func work(told string, in io.Reader, out io.Writer) error {
	w := &worker{out: json.NewEncoder(out)}
	if err := json.Unmarshal([]byte(told), &w.job); err != nil {
		return err
	}
	var locksErr, writesErr error
	w.locks, locksErr = sql.Open(w.Driver, w.Locks)
	w.writes, writesErr = sql.Open(w.Driver, w.Writes)
	if err := errors.Join(locksErr, writesErr); err != nil {
		return err
	}
	defer w.locks.Close()
	defer w.writes.Close()
	for _, db := range []*sql.DB{w.locks, w.writes} {
		db.SetMaxOpenConns(2 * (quickLoops + 1))
		db.SetMaxIdleConns(quickLoops + 1)
	}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	if w.Control != noFence {
		for range quickLoops {
			all.Go(func() { w.loop(ctx, w.quick) })
		}
	}
	all.Go(func() { w.loop(ctx, w.slow) })
	_, _ = io.Copy(io.Discard, in)
	stop()
	all.Wait()
	return w.leftBehind()
}

func (w *worker) loop(ctx context.Context, once func(ctx context.Context) error) {
	for ctx.Err() == nil {
		if err := once(ctx); err != nil { // as a server that is down makes it do
			time.Sleep(time.Duration(5+rand.IntN(20)) * time.Millisecond)
		}
	}
}

func (w *worker) leftBehind() error {
	for _, db := range []*sql.DB{w.locks, w.writes} {
		for end := time.Now().Add(10 * time.Second); db.Stats().InUse > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("%d connections of process %d never came back to the pool", db.Stats().InUse, w.Number)
			}
		}
	}
	return nil
}

func (w *worker) quick(ctx context.Context) error {
	s := section{Key: xactKeys + rand.Int64N(fastKeys)}
	if rand.IntN(4) == 0 {
		s.Key, s.Lease = holdKeys+rand.Int64N(fastKeys), true
	}
	return w.section(ctx, s, 0)
}

func (w *worker) slow(ctx context.Context) error {
	s := section{Key: slowXactKey}
	switch kind := rand.IntN(3); {
	case w.Control == noFence: // nothing else shows it
		s.Key, s.Lease = slowHoldKey, true
	case kind == 0:
		s.Key, s.Lease = slowHoldKey, true
	case kind == 1:
		s.Key, s.Lease = slowMixedKey, rand.IntN(2) == 0
	}
	return w.section(ctx, s, time.Duration(rand.Int64N(int64(ttl/2))))
}

func now() int64 { return time.Now().UnixNano() }

func (w *worker) say(s section) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Encode(s) // without a parent it is about to end
}

// section takes a lock, says when it begins, in case that it is killed, and says what
// became of it.
func (w *worker) section(ctx context.Context, s section, lasts time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	w.mu.Lock()
	w.sections++
	s.ID = w.sections
	w.mu.Unlock()
	s.Process, s.Asked = w.Number, now()
	var mu sync.Mutex
	fn := func(ctx context.Context, tx *sql.Tx) error {
		s.Entered = now()
		w.say(s)
		told := context.AfterFunc(ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			s.Told = now()
		})
		defer func() {
			told()
			mu.Lock()
			defer mu.Unlock()
			s.Left = now()
		}()
		return w.inside(ctx, &s, tx, lasts)
	}
	err := w.call(ctx, s, fn)
	mu.Lock()
	defer mu.Unlock()
	if s.OK = err == nil; !s.OK {
		s.Err = err.Error()
	}
	w.say(s)
	return err
}

func (w *worker) call(ctx context.Context, s section, fn func(ctx context.Context, tx *sql.Tx) error) error {
	alone := func(ctx context.Context) error { return fn(ctx, nil) }
	switch {
	case w.Control == noLock && s.Lease:
		return alone(ctx)
	case w.Control == noLock:
		return inTx(ctx, w.locks, func(tx *sql.Tx) error { return fn(ctx, tx) })
	case s.Lease:
		return advisorylock.Locker{TTL: ttl}.Hold(ctx, w.locks, advisorylock.Key(s.Key), alone)
	}
	return advisorylock.WithXactLock(ctx, w.locks, advisorylock.Key(s.Key), fn)
}

// inside reads a counter, waits, and writes it. Every other one that holds a lease does
// so whatever becomes of the lease meanwhile, and looks at nothing but its fence.
func (w *worker) inside(ctx context.Context, s *section, tx *sql.Tx, lasts time.Duration) error {
	switch {
	case s.Key == slowMixedKey:
		return sleep(ctx, lasts)
	case tx != nil:
		n, err := counter(ctx, tx, s.Key)
		if err != nil {
			return err
		}
		if err := sleep(ctx, lasts); err != nil {
			return err
		}
		return w.count(ctx, tx, s.Key, n+1)
	}
	began, err := counter(ctx, w.writes, s.Key)
	if err != nil {
		return err
	}
	bound := ctx
	if deaf := w.Control == noFence || rand.IntN(2) == 0; deaf {
		var cancel context.CancelFunc
		bound, cancel = context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
	}
	if err := sleep(bound, lasts); err != nil {
		return err
	}
	return inTx(bound, w.writes, func(tx *sql.Tx) error { return w.write(bound, ctx, s, tx, began) })
}

// write is a fenced transaction. What the counter is when the section begins and what
// it is in here differ if somebody else's transaction was late.
func (w *worker) write(bound, ctx context.Context, s *section, tx *sql.Tx, began int64) error {
	if err := w.fence(bound, ctx, tx); err != nil {
		return err
	}
	n, err := counter(bound, tx, s.Key)
	if err != nil {
		return err
	}
	s.Stale = s.Stale || n != began
	return w.count(bound, tx, s.Key, n+1)
}

// fence asks the server alone every other time, as one does who was frozen.
func (w *worker) fence(bound, ctx context.Context, tx *sql.Tx) error {
	switch {
	case w.Control != "":
		return nil
	case rand.IntN(2) == 0:
		return advisorylock.Fence(ctx, tx)
	}
	return sqltest.AskFence(ctx, bound, tx)
}

func counter(ctx context.Context, q sqltest.Querier, key int64) (n int64, err error) {
	err = q.QueryRowContext(ctx, fmt.Sprintf("SELECT n FROM counters WHERE key = %d", key)).Scan(&n)
	return n, err
}

func (w *worker) count(ctx context.Context, tx *sql.Tx, key, n int64) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf("UPDATE counters SET n = %d WHERE key = %d; INSERT INTO writes VALUES (%d, %d, %d)", n, key, key, n, w.Number))
	return err
}

func inTx(ctx context.Context, db *sql.DB, fn func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it may have been committed
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// envJob makes a process of this program a worker; it is its job.
const envJob = "BOOTLOCK_SOAK_JOB"
