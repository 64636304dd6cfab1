package advisorylock

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/room"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

const (
	// reportEvery is the time between two calls of Trace.Waiting.
	reportEvery = 10 * time.Second

	// lookUpTime bounds the look at who is in the way on a connection that is opened
	// for it, above all once a wait is over, when nobody likes to be kept.
	lookUpTime = time.Second

	// lookTime bounds the same look on the waiter's own connection, between two asks,
	// where only the next one waits for it. To cancel it would write an ERROR to the
	// server's log.
	lookTime = 5 * time.Second

	// crowded is how long a BEGIN of a waiter takes when others queue for the
	// connections of a pooler. Whoever blocks then is in their way.
	crowded = 100 * time.Millisecond

	// silence is how long a waiter gives a statement beyond what it may block,
	// before it believes that the network has gone silent and starts anew. A
	// pooler may keep BEGIN waiting for longer than a server keeps anything.
	silence      = 10 * time.Second
	silenceBegin = time.Minute
)

var (
	errSilentAsk = errors.New("no answer from the server or pooler")
	errLate      = errors.New("the lock was granted, but the answer came after its lease had run out")
)

// wait is what a waiter knows of its wait, and tells.
type wait struct {
	call
	db     *sql.DB
	gates  []Key // of the fences that a lease waits for
	pace   room.Pace
	next   time.Time // when Trace.Waiting is due
	gaveUp bool      // the wait ended without the lock
	silent bool      // a driver call did not come back
}

// lock takes the lock. However many asks that takes, it is one step: the
// recorded order does not depend on contention.
func (a *acquisition) lock(ctx context.Context) error {
	granted, err := a.first(ctx)
	for !granted && err == nil && ctx.Err() == nil {
		granted, err = a.again(ctx)
	}
	if granted {
		return nil
	}
	a.wait.silent = errors.Is(err, bounded.ErrNoReturn)
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// first asks for the lock, in the transaction that is open. A lease blocks for it
// at once, by the statement that it would need anyway; the transaction of a user
// asks by a cheaper one, and blocks only if somebody has the lock. In a crowd
// nobody blocks.
func (a *acquisition) first(ctx context.Context) (granted bool, err error) {
	asked := time.Now()
	var n int64 = room.Refused
	if a.try || !a.sql.lease || a.trust.crowd {
		n, err = a.ask(ctx, a.sql.ask)
	}
	switch {
	case err != nil || n != room.Refused || a.try:
	case a.trust.crowd:
		n = room.Back
	default:
		n, err = a.stand(ctx)
	}
	if a.withoutPLpgSQL(err) {
		_ = a.conn.Rollback(ctx)
		n, err = a.restart(ctx)
	}
	switch {
	case !a.try:
		return a.after(ctx, asked, n, err)
	case errors.Is(err, errLate):
		return false, withErrLost(err)
	case err == nil && n != room.Granted:
		err = ErrNotAcquired
	}
	return err == nil, err
}

// again begins a new transaction, which lets go of the snapshot that the last
// one waited with, and asks once more.
func (a *acquisition) again(ctx context.Context) (granted bool, err error) {
	asked := time.Now()
	n, err := a.restart(ctx)
	if err == nil && n == room.Glance && !a.trust.shared {
		_ = a.conn.Rollback(ctx)
		a.wait.pace.Blink(ctx)
		return false, ctx.Err() // it knows its session now, and comes back soon
	}
	return a.after(ctx, asked, n, err)
}

// restart begins again and asks. A waiter that will not block peeks before it
// begins.
func (a *acquisition) restart(ctx context.Context) (int64, error) {
	if a.conn == nil || !a.conn.Usable() {
		if err := heard(ctx, silenceBegin, a.reopen); err != nil {
			return 0, err
		}
	}
	peeks := a.peeks()
	if peeks {
		if n, err := a.peek(ctx); err != nil || n != room.Granted {
			a.trust.sharers = 0
			return n, err
		}
	}
	asked := time.Now()
	err := heard(ctx, silenceBegin, a.begin)
	if err != nil {
		return 0, err
	}
	a.trust.queued = time.Since(asked) > crowded
	a.trust.crowd = a.trust.crowd || a.trust.queued
	if !peeks {
		return a.stand(ctx)
	}
	if a.trust.sharers > 1 && !a.sql.plain {
		return a.heardAsk(ctx, func() string { return a.sql.block(a.burst(room.Burst)) })
	}
	n, err := a.heardAsk(ctx, a.sql.ask)
	if err == nil && n == room.Refused {
		a.trust.sharers++
		n = a.trust.mayNot()
	}
	return n, err
}

func (a *acquisition) reopen(ctx context.Context) error {
	_ = a.giveBack(ctx)
	a.trust.own = unknown
	return a.open(ctx)
}

// peeks reports whether the waiter does not block, without a look at the server.
// One that others are in front of looks again after a while, for it may be its turn
// to block.
func (a *acquisition) peeks() bool {
	_, blindly := room.Stand(a.wait.pace.Waited())
	return a.sql.plain || a.trust.shared || blindly && a.trust.crowd || time.Since(a.trust.behind) < room.Burst
}

// peek asks whether the lock is free.
func (a *acquisition) peek(ctx context.Context) (int64, error) {
	a.trust.own = unknown
	n, err := a.heardAsk(ctx, a.sql.peek)
	if err == nil && n == room.Refused {
		n = a.trust.mayNot()
	}
	return n, err
}

// trust is what a waiter knows of its session.
type trust struct {
	own    int64 // the mark of its next transaction, if nobody else uses it
	shared bool  // others use it: it is a pooler's
	crowd  bool  // BEGIN had to wait for others, at least once
	queued bool  // and this time

	behind time.Time // when others were seen to be in front of it
	short  bool      // and whether the server was short of connections then

	// sharers counts how often in a row the lock could be shared, but not be
	// taken alone. Those who share it may take turns for ever without letting it
	// go: whoever wants it alone has to stand in the server's queue, even here.
	sharers int
}

// unknown is the mark of no transaction.
const unknown = -1

// found learns from the mark of a transaction.
func (t *trust) found(mark int64) {
	t.shared = t.shared || t.own != unknown && t.own != mark
	t.own = mark%marks + 1
}

// mayNot is the answer to a waiter that may not block, as it was told last.
func (t *trust) mayNot() int64 {
	if t.short {
		return room.Leave
	}
	return room.Back
}

// stand asks by a statement that may block: for a while in any case, and then
// only on a session of its own. One that it had to queue for others wait for as well,
// even if its mark is the expected one by chance: where those who wait come by in turn
// that would be the chance of all of them.
func (a *acquisition) stand(ctx context.Context) (int64, error) {
	waited := a.wait.pace.Waited()
	burst, blindly := room.Stand(waited)
	own := a.trust.own
	if a.trust.queued {
		own = unknown
	}
	n, err := a.heardAsk(ctx, func() string {
		if blindly {
			a.trust.own = unknown
			return a.sql.block(a.burst(burst))
		}
		return a.sql.blockIfOwn(waited, a.burst(burst), own)
	})
	if n == room.Back || n == room.Leave {
		a.trust.behind, a.trust.short = time.Now(), n == room.Leave
	}
	return n, err
}

// burst leaves most of a lease to its holder: it counts from the moment at which
// the statement is sent.
func (a *acquisition) burst(d time.Duration) time.Duration {
	if a.sql.lease {
		return min(d, a.sql.ttl/3)
	}
	return d
}

func (a *acquisition) heardAsk(ctx context.Context, statement func() string) (n int64, err error) {
	err = heard(ctx, room.Burst+silence, func(ctx context.Context) error {
		n, err = a.ask(ctx, statement)
		return err
	})
	return n, err
}

// heard bounds what a waiter asks on a network that may have gone silent. The
// server does not need it to end a wait; that has bounds of its own.
func heard(ctx context.Context, limit time.Duration, ask func(ctx context.Context) error) error {
	bound, cancel := context.WithTimeoutCause(ctx, limit, errSilentAsk)
	defer cancel()
	err := ask(bound)
	if err != nil && ctx.Err() == nil && bound.Err() != nil {
		return errSilentAsk
	}
	return err
}

// ask sends a lock statement and returns what it answered. A lease that is
// granted later than it lasts is not granted.
func (a *acquisition) ask(ctx context.Context, statement func() string) (int64, error) {
	if a.sql.lease {
		a.sql.fence = a.sql.fence.Redraw()
	}
	a.asked = time.Now()
	n, err := a.conn.Exec(ctx, statement())
	switch {
	case err != nil:
		return 0, err
	case ctx.Err() != nil:
		a.conn.Distrust()
		return 0, ctx.Err()
	case n > room.Answers:
		a.trust.found(n / room.Answers)
		n %= room.Answers
	case n == 0 && !a.sql.lease:
		n = room.Granted // a mock that was written by hand
	case n == 0:
		n = room.Back
	}
	if n == room.Granted && a.sql.ttl > 0 && time.Since(a.asked) >= keeps(a.sql.ttl) {
		return 0, errLate
	}
	return n, nil
}

// after makes of an answer what comes next: the lock, a pause, the next burst,
// or the end of the wait by an error.
func (a *acquisition) after(ctx context.Context, asked time.Time, n int64, err error) (granted bool, _ error) {
	if err == nil && n == room.Granted {
		return true, nil
	}
	if ctx.Err() != nil {
		if err == nil {
			err = ctx.Err()
		}
		return false, err
	}
	broken := err != nil && (room.Short(err) || room.Gone(err) || errors.Is(err, errSilentAsk) || errors.Is(err, bounded.ErrNoReturn))
	if err != nil && !broken && !errors.Is(err, errLate) && !timedOut(err) && !a.withoutPLpgSQL(err) {
		return false, err
	}
	short := n == room.Leave || room.Short(err)
	took := time.Since(asked)
	if a.conn != nil {
		_ = a.conn.Rollback(ctx)
		if broken || n == room.Leave || n == room.Back && a.trust.shared && a.wait.pace.Waited() > room.Burst {
			a.conn.Distrust() // behind a pooler nobody sees whether its own limit is near
		}
	}
	if broken {
		_ = a.giveBack(ctx)
		a.wait.pause(ctx, took, short, err)
		return false, nil
	}
	a.wait.report(ctx, nil, a.look)
	if err == nil && n == room.Refused || a.sql.plain && err != nil {
		return false, nil // it has blocked for a burst, or knows now how to ask
	}
	_ = a.giveBack(ctx)
	a.wait.pause(ctx, took, short, nil)
	return false, nil
}

// withoutPLpgSQL reports whether err says that the role may not use plpgsql, or
// has none, and remembers it: there are statements that do without.
func (a *acquisition) withoutPLpgSQL(err error) bool {
	code := sqlstate.Of(err)
	if a.sql.plain || code != "42501" && code != "42704" {
		return false
	}
	a.sql.plain = true
	return true
}

// timedOut reports whether err is the end of one ask and not of the wait:
// lock_timeout and statement_timeout of the DSN, the role or the database are
// meant for the user's statements.
func timedOut(err error) bool {
	code := sqlstate.Of(err)
	return code == "55P03" || code == "57014"
}

// look returns who has the lock, asked on the waiter's own connection between
// two transactions: a pool of one has no other.
func (a *acquisition) look(ctx context.Context) []Session {
	if a.conn == nil || !a.conn.Usable() {
		return a.wait.lookUp(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	a.trust.own = unknown
	sessions, err := inTheWay(ctx, a.conn, a.key, a.wait.gates)
	if err != nil {
		a.conn.Distrust()
	}
	return sessions
}

// pause waits until it is time to ask again, and reports whether ctx lasted.
// short is whether connections are, and err what one failed with, or nil.
func (w *wait) pause(ctx context.Context, took time.Duration, short bool, err error) bool {
	if err != nil {
		w.report(ctx, err, nil)
	}
	return w.pace.Pause(ctx, took, short)
}

// report tells Trace.Waiting, when that is due, who is in the way, or what.
func (w *wait) report(ctx context.Context, err error, look func(ctx context.Context) []Session) {
	if err == nil && look == nil || w.trace == nil || w.trace.Waiting == nil || time.Now().Before(w.next) {
		return
	}
	told := locktrace.Wait{Key: int64(w.key), Name: w.named, Err: err}
	if look != nil {
		told.Holders = look(ctx)
	}
	told.Waited = w.pace.Waited()
	w.next = time.Now().Add(reportEvery)
	w.trace.Waiting(ctx, told)
}

// until waits for a turn in the process.
func (w *wait) until(ctx context.Context, ready <-chan struct{}) error {
	if w.trace == nil || w.trace.Waiting == nil {
		return untilReady(ctx, ready, nil, nil)
	}
	return untilReady(ctx, ready, func() time.Time { return w.next }, func() {
		w.report(ctx, nil, w.lookUp)
	})
}

// waitError says of a wait that ended without the lock how long it was and who
// is in the way. It asks only now, with the waiter's own connection given back:
// a pool of one has no other.
func (w *wait) waitError(ctx context.Context, err error) error {
	e := &WaitError{Key: w.key, Waited: w.pace.Waited(), Err: err}
	if !w.silent {
		e.Holders = w.lookUp(ctx)
	}
	return e
}

// lookUp returns who is in the way, as far as that can be found out in short time
// on another connection.
func (w *wait) lookUp(ctx context.Context) []Session {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTime)
	defer cancel()
	conn, err := bounded.Open(ctx, w.db)
	if err != nil {
		return nil
	}
	defer conn.Release(ctx) //nolint:errcheck // nothing was changed
	sessions, _ := inTheWay(ctx, conn, w.key, w.gates)
	return sessions
}

// inTheWay looks who keeps the lock from a waiter.
func inTheWay(ctx context.Context, conn *bounded.Conn, key Key, gates []Key) ([]Session, error) {
	atKey, atGates, err := sessionsOn(ctx, conn, key, gates)
	return holders(atKey, atGates), err
}

// holders are those who have the lock. If all of them have yet to pass the fences
// of an earlier holder, it is the transactions in these. atKey are the sessions
// that have the lock or wait for it, atGates those that are in the fences or
// before them.
func holders(atKey, atGates []Session) []Session {
	has, _ := byGranted(atKey)
	fenced, before := byGranted(atGates)
	fenced = without(fenced, has) // who passes a gate is in it for an instant
	if len(fenced) == 0 {
		return has
	}
	begun := slices.DeleteFunc(without(has, before), asks)
	if len(begun) == 0 {
		return fenced
	}
	return begun
}

// asks reports whether a session is still in the statement that takes the lock: a
// part of it is to pass the fences.
func asks(s Session) bool { return s.State == "active" && strings.Contains(s.Query, doBlock) }

func byGranted(sessions []Session) (granted, waiting []Session) {
	for _, s := range sessions {
		if s.Granted {
			granted = append(granted, s)
		} else {
			waiting = append(waiting, s)
		}
	}
	return granted, waiting
}

// without returns the sessions that are not among others.
func without(sessions, others []Session) []Session {
	return slices.DeleteFunc(slices.Clone(sessions), func(s Session) bool {
		return slices.ContainsFunc(others, func(o Session) bool { return o.PID == s.PID })
	})
}
