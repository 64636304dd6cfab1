package advisorylock

import (
	"context"
	"errors"
	"time"

	"github.com/bootlock/bootlock/internal/bounded"
)

var errSilent = errors.New("no heartbeat came back in time")

// lease keeps a lock transaction alive while its holder works.
type lease struct {
	ctx   context.Context // the caller's: its end cuts short the wait for the last heartbeat
	conn  *bounded.Conn
	query string // of a heartbeat
	ttl   time.Duration
	lost  func()        // called once, when the lease is lost
	stop  chan struct{} // closed when the holder is done
	ended chan error    // gets why the lease was lost, or nil, once
}

// keep begins to keep the lease that the last lock statement began.
func (c *call) keep(ctx context.Context, lost func()) *lease {
	l := &lease{
		ctx: ctx, conn: c.conn, query: c.beatSQL(), ttl: c.ttl(), lost: lost,
		stop: make(chan struct{}), ended: make(chan error, 1),
	}
	go func() { l.ended <- l.beat(c.asked) }()
	return l
}

// end stops the heartbeats and returns why the lease was lost, or nil.
func (l *lease) end() error {
	close(l.stop)
	return <-l.ended
}

// deadline is when the lease must be given up if nothing has come back since
// the heartbeat that was sent at the given time. The margin is for the two
// clocks and for the time that fn needs to look at its context.
func (l *lease) deadline(sent time.Time) time.Duration {
	return time.Until(sent.Add(l.ttl - l.ttl/10))
}

// beat sends heartbeats until the holder is done or the lease is lost.
//
// The deadline has a timer of its own: a heartbeat that hangs, as with lib/pq
// on a silent network, must not delay it.
func (l *lease) beat(sent time.Time) error {
	good := sent
	deadline := time.NewTimer(l.deadline(good))
	defer deadline.Stop()
	interval := l.ttl / 3
	next := time.NewTimer(time.Until(sent.Add(interval)))
	defer next.Stop()

	stop := l.stop
	var cancelled <-chan struct{}
	pending := &bounded.Pending{} // its channel is nil: none under way
	for stop != nil || pending.C != nil {
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
		case err := <-pending.C:
			pending = &bounded.Pending{}
			if err != nil {
				l.lost()
				return err
			}
			good = sent
			if stop != nil {
				deadline.Reset(l.deadline(good))
				next.Reset(time.Until(good.Add(interval)))
			}
		case <-deadline.C:
			l.lost()
			if pending.C != nil {
				l.conn.Abandon(pending)
			}
			return errSilent
		}
	}
	return nil
}
