package simulation

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/waiting"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/history"
	"github.com/bootlock/bootlock/test/sqltest"
)

// task is one thing that a process does, again and again until it succeeds.
type task struct {
	after time.Duration
	op    int
	key   advisorylock.Key
	lock  advisorylock.Locker
	lasts time.Duration
	ctx   time.Duration // 0: for ever
	write int           // transactions of the callback
	late  time.Duration // how long after its end it still writes, as one that was frozen does

	schema string
	name   string // of Once; empty means UpToDate
}

const (
	opHold = iota
	opXact
	opTryHold
	opTryXact
	opOnce
	opAwait
	ops
)

var keys = []advisorylock.Key{1001, 1002}

var (
	schemas = []string{"app", "web", "api"}
	names   = []string{"", "v1", "v2"}
)

func (w *world) keyOf(rng *rand.Rand) advisorylock.Key {
	if w.Small {
		return keys[0]
	}
	all := append([]advisorylock.Key{schemaguard.MigrateKey(schemaguard.KeyFor(schemas[0]))}, keys...)
	return all[rng.IntN(len(all))]
}

// plan is what the process will do: what it awaits comes last, so that no two processes
// await each other.
func (p *process) plan() []task {
	rng := p.w.rng
	tasks := make([]task, 1+rng.IntN(3))
	for i := range tasks {
		tasks[i] = task{
			after: time.Duration(rng.Int64N(int64(time.Second))),
			op:    rng.IntN(ops),
			key:   keys[rng.IntN(100)/70],
			lock:  advisorylock.Locker{TTL: time.Duration(1+rng.IntN(4)) * time.Second},
			lasts: time.Duration(rng.Int64N(int64(3 * time.Second))),
			write: rng.IntN(3),
			late:  time.Duration(rng.Int64N(int64(3 * time.Second))),

			schema: schemas[0],
			name:   names[rng.IntN(len(names))],
		}
		if p.w.narrow {
			tasks[i].op, tasks[i].schema = opOnce, schemas[rng.IntN(len(schemas))]
		}
		if p.w.pooler != nil { // each holder has one of its connections
			tasks[i].key = keys[0]
		}
		if tasks[i].op == opXact || tasks[i].op == opTryXact {
			tasks[i].lock.TTL = 0 // no heartbeat shows that a callback lives that does nothing for a while
		}
		if p.w.Small {
			tasks[i].op, tasks[i].key, tasks[i].write = opHold, keys[0], 1
			tasks[i].lock.TTL = time.Second
			continue
		}
		if rng.IntN(5) == 0 {
			tasks[i].ctx = time.Duration(1 + rng.Int64N(int64(5*time.Second)))
		}
		if tasks[i].op == opOnce && tasks[i].ctx == 0 {
			p.w.migrates[tasks[i].row()] = true
		}
	}
	slices.SortStableFunc(tasks, func(a, b task) int { return a.op/opAwait - b.op/opAwait })
	return tasks
}

func (p *process) work(tasks []task) {
	for _, t := range tasks {
		time.Sleep(t.after)
		stale := 0 // connections that were ended while they were idle, and found when all was well
		for try := 0; ; try++ {
			calm := p.w.isCalm()
			err := p.do(t)
			if err == nil || t.ctx > 0 && errors.Is(err, context.DeadlineExceeded) {
				break
			}
			if calm && sqlstate.Lost(err) {
				stale++
			}
			if calm && (!sqlstate.Lost(err) || stale > 10) && !errors.Is(err, advisorylock.ErrNotAcquired) && p.w.Control == None {
				p.w.violated("process %d began a task when all was well, and it failed: %v", p.number, err)
				break
			}
			if try > 300 {
				p.w.violated("process %d does not succeed: %v", p.number, err)
				break
			}
			time.Sleep(time.Duration(100+try) * 1_000_003)
		}
	}
}

func (p *process) do(t task) error {
	ctx := context.Background()
	if t.ctx > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.ctx)
		defer cancel()
	}
	var h *holder
	seen := p.w.log.Ask(history.Op{Process: p.number, Key: int64(t.held()), Lease: t.op != opXact && t.op != opTryXact})
	err := p.call(ctx, t, func(ctx context.Context, tx *sql.Tx) error {
		if ctx.Err() != nil {
			p.w.violated("process %d: a callback was called with a context that had ended (%v), in %+v", p.number, context.Cause(ctx), t)
		}
		h = p.w.enter(&holder{p: p, key: t.held(), once: t.op == opOnce, name: t.row(), lease: tx == nil, ctx: ctx, ttl: t.lock.TTL})
		h.seen = seen
		over := seen.Granted(ctx, h.id)
		defer func() { p.w.leave(h); over() }()
		err := p.callback(ctx, t, h, tx)
		p.w.migrated(h, err)
		return err
	})
	if h != nil {
		p.w.returned(ctx, h, err)
	} else if ctx.Err() == nil && t.gaveUp(err) {
		p.w.violated("process %d: a wait ended before its context, in %+v: %v", p.number, t, err)
	}
	seen.Returned(err)
	return err
}

// gaveUp reports whether err ended a wait for the lock that should have gone on: only
// the end of its context ends one, and neither that of its session nor that there are no
// connections.
func (t task) gaveUp(err error) bool {
	wait, step := new(advisorylock.WaitError), new(locktrace.StepError)
	if t.op == opTryHold || t.op == opTryXact || !errors.As(err, &step) || errors.Is(err, advisorylock.ErrUnsupported) {
		return errors.As(err, &wait)
	}
	return errors.As(err, &wait) || waiting.Short(err) || step.Step == locktrace.Lock && sqlstate.Lost(err)
}

func (t task) held() advisorylock.Key {
	if t.op == opOnce {
		return schemaguard.MigrateKey(schemaguard.KeyFor(t.schema))
	}
	return t.key
}

func (t task) row() row { return row{onceTable(t.schema), t.name} }

func (p *process) call(ctx context.Context, t task, fn func(ctx context.Context, tx *sql.Tx) error) error {
	alone := func(ctx context.Context) error { return fn(ctx, nil) }
	if p.w.Control == NoLock {
		return alone(ctx)
	}
	if p.w.Control == LateGrant && (t.op == opHold || t.op == opTryHold) {
		return p.holdLate(ctx, t, alone)
	}
	guard := schemaguard.Guard{TTL: t.lock.TTL, Once: t.name}
	if t.name == "" {
		guard.UpToDate = func(ctx context.Context, db *sql.DB) (bool, error) {
			_, err := db.ExecContext(ctx, "SELECT version")
			return p.w.has(t.row()), err
		}
	}
	switch t.op {
	case opHold:
		return t.lock.Hold(ctx, p.db, t.key, alone)
	case opXact:
		return t.lock.WithXactLock(ctx, p.db, t.key, fn)
	case opTryHold:
		return t.lock.TryHold(ctx, p.db, t.key, alone)
	case opTryXact:
		return t.lock.TryWithXactLock(ctx, p.db, t.key, fn)
	case opOnce:
		if p.w.Control == LooseRow && t.name != "" {
			return p.onceLoosely(ctx, t, alone)
		}
		return p.w.hasRow(t.row(), guard.Ensure(ctx, p.db, t.schema, func(ctx context.Context, _ *sql.DB) error { return alone(ctx) }))
	default:
		if !p.w.migrates[t.row()] {
			return nil // nobody to wait for
		}
		return p.w.hasRow(t.row(), guard.Await(ctx, p.db, t.schema))
	}
}

// onceLoosely is Once as one would write it: the row is no part of the lock.
func (p *process) onceLoosely(ctx context.Context, t task, migrate func(ctx context.Context) error) error {
	return t.lock.Hold(ctx, p.db, t.held(), func(ctx context.Context) error {
		if p.w.has(t.row()) {
			return nil
		}
		if err := migrate(ctx); err != nil {
			return err
		}
		tx, err := p.db.BeginTx(context.Background(), nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // ends a transaction that failed
		if _, err := tx.ExecContext(context.WithoutCancel(ctx), fmt.Sprintf("INSERT INTO %s (name) VALUES ('%s')", onceTable(t.schema), t.name)); err != nil {
			return err
		}
		time.Sleep(t.late)
		return tx.Commit()
	})
}

// callback is what is done under the lock: it lasts, and writes.
func (p *process) callback(ctx context.Context, t task, h *holder, tx *sql.Tx) error {
	switch {
	case p.w.Control == LateGrant:
		t.write = 0 // it has no fence
	case p.w.Small: // as one does that was frozen: it does not look at its context
		time.Sleep(t.lasts / 2)
		_ = p.write(ctx, h, true)
		time.Sleep(t.lasts / 2)
		return nil
	}
	for range t.write {
		if err := sleep(ctx, t.lasts/time.Duration(t.write+1)); err != nil {
			return err
		}
		var err error
		if tx != nil {
			_, err = tx.ExecContext(ctx, h.write())
		} else {
			err = p.write(ctx, h, false)
		}
		if err != nil {
			return err
		}
	}
	if tx == nil && t.write > 0 {
		go p.thaw(ctx, t, h)
	}
	return sleep(ctx, t.lasts/time.Duration(t.write+1))
}

func (h *holder) write() string { return fmt.Sprintf("WRITE %d", h.id) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// thaw goes on writing, as a process that was frozen does before it knows.
func (p *process) thaw(ctx context.Context, t task, h *holder) {
	for begun := time.Now(); time.Since(begun) < t.lasts+t.late; {
		time.Sleep(t.late/4 + 50*time.Millisecond)
		_ = p.write(ctx, h, true)
	}
}

// write writes in a transaction of its own, behind a fence. One that was frozen
// sends the fence itself: what the library knows by now, it does not.
func (p *process) write(ctx context.Context, h *holder, frozen bool) error {
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	tx, err := p.db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // ends a transaction that failed
	if err := p.fence(bound, ctx, tx, h, frozen); err != nil {
		return err
	}
	time.Sleep(time.Duration(h.id%7) * 100 * time.Millisecond)
	if _, err := tx.ExecContext(bound, h.write()); err != nil {
		return err
	}
	asked := p.w.log.Now()
	err = tx.Commit()
	if err == nil {
		h.seen.Committed(asked)
	}
	return err
}

func (p *process) fence(bound, ctx context.Context, tx *sql.Tx, h *holder, frozen bool) (err error) {
	asked := p.w.log.Now()
	switch {
	case p.w.Control == NoFence || p.w.Control == NoLock:
		return nil
	case frozen:
		err = sqltest.AskFence(ctx, bound, tx)
	default:
		err = advisorylock.Fence(ctx, tx)
	}
	if late := errors.Is(err, advisorylock.ErrLost) || sqlstate.Of(err) == "22P02"; late || err == nil {
		h.seen.Fenced(asked, !late)
	}
	return err
}

// holdLate is a lease as one would write it: it never asks how old the grant is.
func (p *process) holdLate(ctx context.Context, t task, fn func(ctx context.Context) error) error {
	tx, err := p.db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // ends a transaction that failed
	lock := fmt.Sprintf("SET LOCAL idle_in_transaction_session_timeout = '%dms'; SELECT pg_catalog.pg_advisory_xact_lock(%d)", t.lock.TTL.Milliseconds(), t.key)
	if _, err := tx.ExecContext(ctx, lock); err != nil {
		return err
	}
	ctx, lose := context.WithCancelCause(ctx)
	deadline := time.AfterFunc(t.lock.TTL*9/10, func() { lose(advisorylock.ErrLost) })
	returned := make(chan error, 1)
	go func() { returned <- fn(ctx) }()
	for {
		select {
		case err := <-returned:
			deadline.Stop()
			if err == nil && context.Cause(ctx) == nil {
				return tx.Commit()
			}
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(t.lock.TTL / 3):
		}
		sent := time.Now()
		if _, err := tx.ExecContext(ctx, "SELECT 1"); err != nil {
			lose(advisorylock.ErrLost)
			return errors.Join(<-returned, advisorylock.ErrLost)
		}
		deadline.Reset(time.Until(sent.Add(t.lock.TTL * 9 / 10)))
	}
}
