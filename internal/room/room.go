// Package room is the waiting room: how any number of processes wait without
// being in the way of the one they wait for.
//
// A waiter asks for the lock, in a transaction of its own. If somebody has it,
// the waiter blocks in the server for its first 300 ms, unless BEGIN had to queue
// for a connection. After that it blocks, for [Burst] at most, only on a session
// that nobody else has used since its own last transaction: one that others use
// belongs to a pooler, whose connections the others need, the one that it waits
// for among them. Nor does it block if its BEGIN had to queue. A waiter that may not
// block, because of that or because three others have waited longer, ends its
// transaction and asks again at a [Pace] that grows with the wait. Where the server
// itself is short of connections it closes its connection first, and behind a pooler,
// whose limit it cannot see, it does so after a second.
//
// That the server or the pooler has no connection to give, that it is starting
// up, or that the session of a waiter ends, is not the end of the wait ([Short],
// [Gone]); the end of its context is.
//
// Nothing here is remembered between two asks, and nothing is stored in the
// database. Package advisorylock has the statements.
package room

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/bootlock/bootlock/internal/sqlstate"
)

// Burst is how long one statement may block in the server. While it does, its
// snapshot keeps CREATE INDEX CONCURRENTLY and vacuum waiting.
const Burst = time.Second

// What a statement that waits may answer, as the number of rows that it
// affects. A mock that knows nothing of it answers with one row, or none.
const (
	Granted = 1 // the lock is there
	Refused = 2 // somebody has it, even after a burst of waiting
	Back    = 3 // somebody has it, and to block would be in somebody's way
	Leave   = 4 // the same, and the server is short of connections
	Glance  = 5 // somebody has it, and the next ask will show whether to block would be in somebody's way

	Answers = 8 // more than that is a mark of the session, see package advisorylock
)

const (
	shortest    = 10 * time.Millisecond
	longest     = time.Second     // between two asks of a waiter
	longestSlow = 3 * time.Second // where each ask takes long, or a part of the wait
	share       = 20              // of what an ask takes
)

// Pace says when to ask again. Its zero value is not ready; see [Start] and [Lead].
type Pace struct {
	began time.Time
	last  time.Duration // what the last ask took
	leads bool          // all others wait for this one
}

// free is for how long everybody may block, in one burst. A look at the sessions
// costs as much as a few statements, and most waits are over sooner; and if they
// block the one that they wait for, for want of a connection, it is not for long.
const free = 300 * time.Millisecond

// Stand says how long a waiter that has waited so long blocks at a time, and
// whether it does so without looking whether it is in somebody's way.
func Stand(waited time.Duration) (burst time.Duration, blindly bool) {
	if waited < free {
		return free, true
	}
	return Burst, false
}

// Start begins a wait.
func Start() Pace { return Pace{began: time.Now()} }

// Lead is the pace of the one that all others wait for: it asks as often as it is
// answered, since each of its pauses is one of theirs.
func Lead() Pace { return Pace{began: time.Now(), leads: true} }

// Waited is the time since the wait began.
func (p Pace) Waited() time.Duration { return time.Since(p.began) }

// Blink is the pause of a waiter that only wants to know whether others use its
// session.
func (p Pace) Blink(ctx context.Context) bool { return sleep(ctx, shortest) }

// Pause waits until it is time to ask again, and reports whether ctx lasted. Half of
// what [Pace.Next] says is random: those who start together do not ask together.
func (p *Pace) Pause(ctx context.Context, took time.Duration, short bool) bool {
	return sleep(ctx, p.Next(p.Waited(), took, short))
}

// Next is how long the next pause is at most, after so long a wait and an ask that
// took so long; short is whether connections are.
//
// A tenth of the wait so far makes nobody wait more than a tenth longer than needed.
// Twenty times what the last two asks took keeps all waiters together from being much
// of what a pooler has to do; one slow ask may be an accident. Where connections are
// short it is never less than a second, and if opening them takes long it may become
// half of the wait: asks that cost a connection each can be more than the server can
// answer, and then none of them comes to anything before all come more rarely. A Pace is
// not safe for concurrent use.
func (p *Pace) Next(waited, took time.Duration, short bool) time.Duration {
	last, part, least := p.last, waited/10, time.Duration(0)
	if short && !p.leads {
		took, part, least = dear(took), waited/2, longest/share
	}
	p.last = took
	slow := max(least, min(took, last))
	if p.leads {
		return max(shortest, min(slow, longest))
	}
	return max(shortest, min(waited/10, longest), min(share*slow, max(part, longestSlow)))
}

// dear is what an ask that took so long counts as where connections are short: to
// open one for it costs the server and this process much more than the ask does, and
// keeps it from others meanwhile.
func dear(took time.Duration) time.Duration { return max(2*took, longest/share) }

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d/2)) //nolint:gosec // not a secret
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// Short reports whether err says that the server or the pooler has no connection
// to give now, or is not ready yet. Nothing has happened then, and later there
// will be one.
func Short(err error) bool {
	if err == nil {
		return false
	}
	switch sqlstate.Of(err) {
	case "53300", "57P03": // too_many_connections, cannot_connect_now
		return true
	case "", "08P01", "58000", "XX000": // PgBouncer's and pgpool-II's own errors have no better code
	default:
		return false
	}
	text := err.Error()
	for _, words := range []string{
		"no more connections allowed",    // PgBouncer's max_client_conn, max_db_connections
		"query_wait_timeout",             // PgBouncer: no server connection in time
		"too many connections",           // PgBouncer, repeating the server
		"too many clients already",       // the server's words for 53300, repeated by a pooler
		"remaining connection slots are", // the same, for those without a right to the last ones
		"the database system is starting up",
		"the database system is shutting down",
		"the database system is not accepting connections",
		"the database system is not yet accepting connections",
		"server login has been failing", // PgBouncer, after one of these
	} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// Gone reports whether err says that a session is gone, or that a server that
// was there before cannot be reached now. A waiter has nothing to lose by it.
func Gone(err error) bool {
	return sqlstate.Lost(err) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// Patiently calls ask, at that pace, until it returns anything but a shortage of
// connections (see [Short]), or ctx ends. The error is that of the last ask.
func Patiently(ctx context.Context, pace Pace, ask func(ctx context.Context) error) error {
	for {
		asked := time.Now()
		err := ask(ctx)
		if !Short(err) || !pace.Pause(ctx, time.Since(asked), true) {
			return err
		}
	}
}
