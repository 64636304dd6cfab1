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
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/step"
	"github.com/bootlock/bootlock/internal/waiting"
)

// acquisition is one call's way to its lock: a place in the process, a connection,
// the lock.
type acquisition struct {
	bridge.Call
	sql    statements
	place  place
	conn   *bounded.Conn // nil while a waiter has none
	asked  time.Time     // when the statement that took the lock was sent
	wait   wait
	report *waiting.Report
	held   *held // what the callback's context knows of; nil before the lock is there
}

func newAcquisition(c bridge.Call, lease bool) *acquisition {
	return &acquisition{
		Call:  c,
		sql:   newStatements(c, lease),
		place: place{db: c.DB, key: Key(c.Key)},
		wait:  wait{polls: c.Done != nil},
	}
}

// step runs fn as one traced step, and says in its error which.
func (a *acquisition) step(ctx context.Context, s locktrace.Step, fn func(ctx context.Context) error) error {
	err := step.Do(ctx, a.Trace, locktrace.Event{Step: s, For: a.For, Key: a.Key, Name: a.Name}, func(ctx context.Context) error {
		return classify(fn(ctx))
	})
	if err != nil {
		return a.failed(s, err)
	}
	return nil
}

func (a *acquisition) failed(s locktrace.Step, err error) error {
	if s == locktrace.Connect && (errors.Is(err, ErrNotAcquired) || errors.Is(err, ErrNested) || errors.Is(err, errCircle)) {
		s = locktrace.Lock // found out inside the process, before a connection was needed
	}
	return &locktrace.StepError{Op: a.Op, Name: a.title(), Step: s, Err: err}
}

func (a *acquisition) title() string {
	if a.Name != "" {
		return a.Name
	}
	return Key(a.Key).String()
}

// run takes the lock, runs inside, which ends the transaction, and gives
// everything back.
func (a *acquisition) run(ctx context.Context, inside func(ctx context.Context) error) (err error) {
	defer a.leave()
	defer func() { err = a.explain(ctx, err) }()
	defer a.giveBack(ctx) //nolint:errcheck // what a panic has kept from being given back in order
	at, err := a.get(ctx)
	if at == locktrace.Connect {
		return err
	}
	defer a.release(ctx)
	if at == locktrace.Begin {
		return err
	}
	if err != nil || a.wait.done {
		a.rollback(ctx)
		return err
	}
	return inside(ctx)
}

// get waits for the lock, in three steps, however many attempts that takes: the
// recorded order does not depend on contention. It returns the last of them.
func (a *acquisition) get(ctx context.Context) (at locktrace.Step, err error) {
	who := locktrace.Wait{For: a.For, Key: a.Key, Name: a.Name}
	waitCtx, report := waiting.Begin(ctx, a.Trace, who, func(ctx context.Context) ([]Session, error) { return lookUp(ctx, a.DB, Key(a.Key)) })
	a.report = report
	defer report.End()
	for _, s := range []struct {
		step locktrace.Step
		do   func(ctx context.Context) error
	}{{locktrace.Connect, a.connect}, {locktrace.Begin, a.beginFirst}, {locktrace.Lock, a.lock}} {
		if at, err = s.step, a.step(waitCtx, s.step, s.do); err != nil {
			break
		}
	}
	return at, err
}

// explain names the holders in err if it ended a wait. By then the waiter's own
// connection is back: a pool of one has no other.
func (a *acquisition) explain(ctx context.Context, err error) error {
	var failed *locktrace.StepError
	if a.held != nil || a.Try || !a.wait.lasted || ctx.Err() == nil || !errors.As(err, &failed) {
		return err
	}
	return a.failed(failed.Step, a.waitError(ctx, failed.Err))
}

func (a *acquisition) leave() {
	if a.held != nil {
		a.held.released.Store(true)
	}
	a.place.leave()
}

// withHeld returns the context for the callback.
func (a *acquisition) withHeld(ctx context.Context) context.Context {
	outer, _ := ctx.Value(heldKey{}).(*held)
	a.held = &held{db: a.DB, key: Key(a.Key), outer: outer}
	return context.WithValue(ctx, heldKey{}, a.held)
}

// connect waits for the place in the process and takes a connection.
func (a *acquisition) connect(ctx context.Context) error {
	two := a.sql.lease && (a.Work == nil || a.Work == a.DB) // the work needs one too
	if err := a.place.enter(ctx, two, a.Try); err != nil {
		a.wait.lasted = ctx.Err() != nil
		return err
	}
	a.yield(ctx)
	return a.openPatiently(ctx)
}

// openPatiently waits for a connection while the server has none.
func (a *acquisition) openPatiently(ctx context.Context) error {
	for {
		took := a.report.Since()
		err := a.open(ctx)
		if !a.wait.refused(ctx, a.report, err, took) {
			return bounded.Ended(ctx, err)
		}
	}
}

func (a *acquisition) open(ctx context.Context) (err error) {
	a.conn, err = bounded.Open(ctx, a.DB)
	return err
}

// begin names the isolation level, since the database's default may be another:
// SERIALIZABLE would work on a snapshot from before the wait, and fail with
// 40001 after it. Each transaction draws a number of its own.
func (a *acquisition) begin(ctx context.Context) error {
	if a.sql.lease {
		a.sql.fence = a.sql.fence.Redraw()
	}
	err := a.conn.Begin(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if sqlstate.Of(err) == "0A000" { // lib/pq asks for READ WRITE, which a standby does not know
		err = fmt.Errorf("%w: %w", errStandby, err)
	}
	return err
}

// beginFirst begins the transaction in which the lock is tried first.
//
// A pool may be full of connections that the server closed long ago. BEGIN is
// the first to notice, and nothing has happened yet, so it is tried again on
// the next one, as database/sql does for [sql.DB.BeginTx], which cannot be used
// here since it does not tell connect from begin.
func (a *acquisition) beginFirst(ctx context.Context) error {
	for stale := a.DB.Stats().OpenConnections; ; stale-- {
		took := a.report.Since()
		err := classify(a.begin(ctx))
		if ctx.Err() != nil || !mayBeginAgain(err) {
			return err
		}
		a.letGo(ctx, waiting.Short(err))
		switch {
		case a.wait.refused(ctx, a.report, err, took):
			stale++
		case ctx.Err() != nil:
			return bounded.Ended(ctx, err)
		case stale < 0 && a.refusesBegin(ctx):
			return fmt.Errorf("%w: %w", errStatementMode, err)
		case stale < 0:
			return err
		}
		if err := a.openPatiently(ctx); err != nil {
			return err
		}
	}
}

func mayBeginAgain(err error) bool {
	return err != nil && (waiting.Short(err) || sqlstate.Lost(err) && !errors.Is(err, ErrUnsupported))
}

// refusesBegin reports whether connections work but break at BEGIN, every time.
// Behind a pooler in statement mode they do, and lib/pq hides the pooler's
// reason. Once is not enough: any connection may break once.
func (a *acquisition) refusesBegin(ctx context.Context) bool {
	for range 3 {
		if !a.breaksAtBegin(ctx) {
			return false
		}
	}
	return true
}

func (a *acquisition) breaksAtBegin(ctx context.Context) bool {
	conn, err := bounded.Open(ctx, a.DB)
	if err != nil {
		return false
	}
	defer conn.Release(ctx) //nolint:errcheck // nothing was changed
	if _, err := conn.Exec(ctx, "SELECT 1"); err != nil {
		return false
	}
	err = conn.Begin(ctx, nil)
	_ = conn.Rollback(ctx)
	return sqlstate.Lost(err)
}

// rollback ends the transaction and reports whether its session was gone
// already, which ends it just as well.
func (a *acquisition) rollback(ctx context.Context) (gone bool) {
	_ = a.step(ctx, locktrace.Rollback, func(ctx context.Context) error {
		if a.conn == nil {
			return nil
		}
		err := a.conn.Rollback(ctx)
		gone = sqlstate.Lost(err)
		if gone || ctx.Err() != nil && !errors.Is(err, bounded.ErrNoReturn) {
			return nil
		}
		return err
	})
	return gone
}

func (a *acquisition) release(ctx context.Context) {
	_ = a.step(ctx, locktrace.Release, a.giveBack)
}

// giveBack is release without a trace, for a waiter between two attempts. A second
// one does nothing: it may be the clean-up after a hook or driver that panicked.
func (a *acquisition) giveBack(ctx context.Context) error {
	if a.conn == nil {
		return nil
	}
	conn := a.conn
	a.conn = nil
	return conn.Release(ctx)
}
