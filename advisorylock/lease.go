package advisorylock

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

var errQuiet = errors.New("no heartbeat came back in time")

// beatEvery is the time between two heartbeats, if a third of the TTL is not
// shorter. A session may end for other reasons than silence, and the next holder
// begins at once then: this is how soon the old one is told.
const beatEvery = time.Second

// beatAgain is how soon a heartbeat is repeated that failed for no reason that
// the server or database/sql gave.
const beatAgain = 100 * time.Millisecond

// lease keeps a lock transaction alive while its holder works.
type lease struct {
	ctx    context.Context // the caller's: its end cuts short the wait for the last heartbeat
	conn   *bounded.Conn
	query  string // of a heartbeat
	ttl    time.Duration
	onLost func()        // called once, when the lease is lost
	stop   chan struct{} // closed when the holder is done
	ended  chan error    // gets why the lease was lost, or nil, once
}

// keep begins to keep the lease that the lock statement of st began, which was
// sent at the given time.
func keep(ctx context.Context, conn *bounded.Conn, st *statements, mock bool, sent time.Time, onLost func()) *lease {
	l := &lease{
		ctx: ctx, conn: conn, query: st.beat(), ttl: st.ttl, onLost: onLost,
		stop: make(chan struct{}), ended: make(chan error, 1),
	}
	if mock { // it does not know when heartbeats are due
		l.ended <- nil
	} else {
		go func() { l.ended <- l.beat(sent) }()
	}
	return l
}

// end stops the heartbeats and returns why the lease was lost, or nil.
func (l *lease) end() error {
	close(l.stop)
	return <-l.ended
}

// keeps is for how long a lease is sure after its last good heartbeat was sent.
// The margin is for the two clocks and for the time that fn needs to look at its
// context.
func keeps(ttl time.Duration) time.Duration { return ttl - ttl/10 }

// deadline is when the lease must be given up if nothing has come back since
// the heartbeat that was sent at the given time.
func (l *lease) deadline(sent time.Time) time.Duration {
	return time.Until(sent.Add(keeps(l.ttl)))
}

// beat sends heartbeats until the holder is done or the lease is lost.
//
// The deadline has a timer of its own: a heartbeat that hangs, as with lib/pq
// on a silent network, must not delay it.
func (l *lease) beat(sent time.Time) error {
	good := sent
	deadline := time.NewTimer(l.deadline(good))
	defer deadline.Stop()
	interval := min(l.ttl/3, beatEvery)
	next := time.NewTimer(time.Until(sent.Add(interval)))
	defer next.Stop()

	stop := l.stop
	var cancelled <-chan struct{}
	var pending <-chan error // of the heartbeat under way; nil if none is
	for stop != nil || pending != nil {
		select {
		case <-stop:
			stop = nil // but wait, in bounds, for what is under way
			next.Stop()
			deadline.Reset(min(endTime, l.deadline(good)))
			cancelled = l.ctx.Done()
		case <-cancelled:
			cancelled = nil
			deadline.Reset(min(bounded.Grace, l.deadline(good)))
		case <-next.C:
			sent = time.Now()
			pending = l.conn.Start(l.query)
		case err := <-pending:
			pending = nil
			if stop != nil && mayPass(err) {
				next.Reset(beatAgain)
				continue
			}
			if err != nil {
				l.onLost()
				return err
			}
			good = sent
			if stop != nil {
				deadline.Reset(l.deadline(good))
				next.Reset(time.Until(good.Add(interval)))
			}
		case <-deadline.C:
			l.onLost()
			l.conn.Abandon(pending)
			return errQuiet
		}
	}
	return nil
}

// mayPass reports whether a heartbeat failed with an error that need not have ended the
// transaction, and with it the lock: whatever has a SQLSTATE did, and a broken
// connection. Any other error may come from anywhere, such as a mock that
// expects no heartbeat; if the connection was broken by it, the next heartbeat
// will say so, and until the deadline nobody else can have the lock for silence.
func mayPass(err error) bool {
	return err != nil && sqlstate.Of(err) == "" && !sqlstate.Lost(err) && !errors.Is(err, sql.ErrTxDone) && !errors.Is(err, context.Canceled)
}
