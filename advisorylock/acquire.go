package advisorylock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/room"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/step"
)

// call says what is done for whom, in traces and errors.
type call struct {
	op    string // "WithXactLock"
	key   Key
	named string // the Locker's Name
	trace *locktrace.Trace
}

// step runs fn as one traced step, and says in its error which.
func (c *call) step(ctx context.Context, s locktrace.Step, fn func(ctx context.Context) error) error {
	err := step.Do(ctx, c.trace, c.event(s), func(ctx context.Context) error {
		return classify(bounded.Ended(ctx, fn(ctx)))
	})
	if err != nil {
		return c.failed(s, err)
	}
	return nil
}

func (c *call) event(s locktrace.Step) locktrace.Event {
	return locktrace.Event{Step: s, Key: int64(c.key), Name: c.named}
}

func (c *call) failed(s locktrace.Step, err error) error {
	if s == locktrace.Connect && (errors.Is(err, ErrNotAcquired) || errors.Is(err, ErrNested)) {
		s = locktrace.Lock // found out inside the process, before a connection was needed
	}
	return &locktrace.StepError{Op: "advisorylock." + c.op, Name: c.name(), Step: s, Err: err}
}

func (c *call) name() string {
	if c.named != "" {
		return c.named
	}
	return c.key.String()
}

// session is a connection with a transaction on it. It has none before connect,
// and none while a waiter has given it up.
type session struct {
	call
	db   *sql.DB
	conn *bounded.Conn
}

func (s *session) open(ctx context.Context) (err error) {
	s.conn, err = bounded.Open(ctx, s.db)
	return err
}

// begin names the isolation level, since the database's default may be another:
// SERIALIZABLE would work on a snapshot from before the wait, and fail with
// 40001 after it.
func (s *session) begin(ctx context.Context) error {
	return s.conn.Begin(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
}

// rollback ends the transaction and reports whether its session was gone
// already, which ends it just as well.
func (s *session) rollback(ctx context.Context) (gone bool) {
	_ = s.step(ctx, locktrace.Rollback, func(ctx context.Context) error {
		if s.conn == nil {
			return nil
		}
		err := s.conn.Rollback(ctx)
		gone = sqlstate.Lost(err)
		if gone || ctx.Err() != nil && !errors.Is(err, bounded.ErrNoReturn) {
			return nil
		}
		return err
	})
	return gone
}

func (s *session) release(ctx context.Context) {
	_ = s.step(ctx, locktrace.Release, s.giveBack)
}

// giveBack is release without a trace, for a waiter between two asks. A second
// one does nothing: it may be the clean-up after a hook or driver that panicked.
func (s *session) giveBack(ctx context.Context) error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Release(ctx)
}

// acquisition is one call's way to its lock: a place in the process, a session,
// the lock.
type acquisition struct {
	session
	try   bool
	sql   *statements
	place place
	wait  wait
	trust trust
	asked time.Time // when the last lock statement was sent
	held  *held     // what the callback's context knows of; nil before the lock is there
}

func (l Locker) acquisition(op string, db *sql.DB, key Key, try, lease bool) *acquisition {
	c := call{op: op, key: key, named: l.Name, trace: l.Trace}
	size := whole
	if l.Shared {
		size = 1
	}
	now := room.Start()
	st := l.statements(db, key, lease)
	return &acquisition{
		session: session{call: c, db: db},
		try:     try,
		sql:     st,
		place:   place{db: db, key: key, size: size},
		trust:   trust{own: unknown},
		wait:    wait{call: c, db: db, gates: st.gates(), pace: now, next: time.Now().Add(room.Burst)},
	}
}

// run takes the lock, runs inside, which ends the transaction, and gives
// everything back.
func (a *acquisition) run(ctx context.Context, inside func(ctx context.Context) error) error {
	err := a.locked(ctx, inside)
	var failed *locktrace.StepError
	if a.held == nil && a.wait.gaveUp && errors.As(err, &failed) {
		return a.failed(failed.Step, a.wait.waitError(ctx, failed.Err))
	}
	return err
}

func (a *acquisition) locked(ctx context.Context, inside func(ctx context.Context) error) error {
	defer a.leave()
	defer a.giveBack(ctx) //nolint:errcheck // what a panic has kept from being given back in order
	if err := a.connect(ctx); err != nil {
		return err
	}
	defer a.release(ctx)
	err := a.step(ctx, locktrace.Lock, a.lock)
	if err != nil {
		a.wait.gaveUp = !a.try && ctx.Err() != nil
		a.rollback(ctx)
		return err
	}
	return inside(ctx)
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
	a.held = &held{db: a.db, key: a.key, outer: outer}
	return context.WithValue(ctx, heldKey{}, a.held)
}

// connect waits for the place in the process, takes a connection and begins.
//
// A pool may be full of connections that the server closed long ago. BEGIN is
// the first to notice, and nothing has happened yet, so it is tried again on
// the next one, as database/sql does for [sql.DB.BeginTx], which cannot be used
// here since it does not tell connect from begin.
func (a *acquisition) connect(ctx context.Context) error {
	for stale := a.db.Stats().OpenConnections; ; stale-- {
		if err := a.step(ctx, locktrace.Connect, a.enterAndOpen); err != nil {
			a.wait.gaveUp = a.wait.gaveUp || room.Short(err)
			return err
		}
		asked := time.Now()
		err := a.step(ctx, locktrace.Begin, a.begin)
		if err == nil {
			a.trust.crowd = time.Since(asked) > crowded
			return nil
		}
		a.release(ctx)
		switch {
		case ctx.Err() != nil:
			return err
		case room.Short(err):
			stale++
			if !a.wait.pause(ctx, time.Since(asked), true, err) {
				a.wait.gaveUp = true
				return a.failed(locktrace.Begin, bounded.Ended(ctx, errors.Unwrap(err)))
			}
		case !sqlstate.Lost(err) || errors.Is(err, ErrUnsupported):
			return err
		case stale < 0 && a.refusesBegin(ctx):
			return a.failed(locktrace.Begin, fmt.Errorf("%w: %w", errStatementMode, errors.Unwrap(err)))
		case stale < 0:
			return err
		}
	}
}

func (a *acquisition) enterAndOpen(ctx context.Context) error {
	if err := a.place.enter(ctx, a.sql.lease, a.try, a.wait.until); err != nil {
		a.wait.gaveUp = !a.try && ctx.Err() != nil
		return err
	}
	for {
		asked := time.Now()
		err := a.open(ctx)
		if !room.Short(err) || !a.wait.pause(ctx, time.Since(asked), true, err) {
			return err
		}
	}
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
	conn, err := bounded.Open(ctx, a.db)
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
