package history

import (
	"context"
	"errors"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
)

// Client is one call for a lock, of the process and for the key in Op, as its caller
// sees it. It is not safe for concurrent use, but for Fenced and Committed.
type Client struct {
	log    *Log
	op     Op // Process, Key, Lease
	holder int
	asked  time.Duration
	left   time.Duration // when the callback was over
}

// Ask begins a call now.
func (l *Log) Ask(op Op) *Client { return &Client{log: l, op: op, asked: l.Now()} }

// Granted says that the callback has begun, under a number that no other has. What it
// returns says that it is over.
func (c *Client) Granted(ctx context.Context, holder int) (over func()) {
	c.holder = holder
	c.add(Op{Kind: Granted, Lease: c.op.Lease, Call: c.asked})
	stop := context.AfterFunc(ctx, func() {
		kind := Ended // it can be told no more, and a driver may end the session of a statement that is cancelled
		if errors.Is(context.Cause(ctx), advisorylock.ErrLost) {
			kind = Lost
		}
		c.add(Op{Kind: kind, Call: c.log.Now()})
	})
	return func() {
		stop()
		c.left = c.log.Now()
	}
}

// Returned says what the call has returned.
func (c *Client) Returned(err error) {
	switch {
	case c.holder != 0:
		c.add(Op{Kind: Released, OK: err == nil, Call: c.left})
	case errors.Is(err, advisorylock.ErrNotAcquired):
		c.add(Op{Kind: Refused, Call: c.asked})
	case err != nil:
		c.add(Op{Kind: Failed, Call: c.asked})
	}
}

// Fenced says what the fence said to a transaction that asked at the given time.
func (c *Client) Fenced(asked time.Duration, ok bool) { c.add(Op{Kind: Fenced, OK: ok, Call: asked}) }

// Committed says that a commit that began at the given time went well.
func (c *Client) Committed(asked time.Duration) { c.add(Op{Kind: Committed, OK: true, Call: asked}) }

func (c *Client) add(op Op) {
	op.Process, op.Key, op.Holder = c.op.Process, c.op.Key, c.holder
	c.log.Add(op)
}
