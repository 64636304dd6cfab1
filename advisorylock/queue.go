package advisorylock

import (
	"container/list"
	"context"
	"database/sql"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Callers of one key queue inside the process, so that only the first of them
// costs a connection; and lock connections together leave one connection of the
// pool to the callbacks, without which N waiters on a pool of N would wait for
// a callback that waits for a connection.

// line lets callers through in the order in which they came.
type line struct {
	capacity int
	used     int
	tickets  list.List // of *ticket, those who wait
}

type ticket struct {
	weight int
	slots  int           // connections that its own call chain has
	ready  chan struct{} // closed when it was let through
}

// exclusive is the weight of a caller that wants the key alone; a shared one
// weighs 1.
const exclusive = 1 << 30

// pool is what the process knows of one *sql.DB, for as long as anybody calls.
type pool struct {
	callers int
	keys    map[Key]*keyLine
	conns   line // the connections that locks may have
	stuck   int  // connections of call chains that wait for one more
}

type keyLine struct {
	line
	callers int
}

// pools is keyed by the *sql.DB itself: two of them on one database do not know
// of each other and meet on the server, as two processes do.
var pools = struct {
	sync.Mutex
	of map[*sql.DB]*pool
}{of: map[*sql.DB]*pool{}}

// held is a lock that the callback's context knows of.
type held struct {
	db       *sql.DB
	key      Key
	outer    *held
	released atomic.Bool // the context may outlive the call
}

type heldKey struct{}

// chain returns how many connections the call chain of ctx has from db, and
// whether one of them holds key.
func chain(ctx context.Context, db *sql.DB, key Key) (slots int, nested bool) {
	h, _ := ctx.Value(heldKey{}).(*held)
	for ; h != nil; h = h.outer {
		if h.db == db && !h.released.Load() {
			slots++
			nested = nested || h.key == key
		}
	}
	return slots, nested
}

// withHeld returns the context for the callback.
func (c *call) withHeld(ctx context.Context) context.Context {
	outer, _ := ctx.Value(heldKey{}).(*held)
	c.held = &held{db: c.db, key: c.key, outer: outer}
	return context.WithValue(ctx, heldKey{}, c.held)
}

// enter waits for the key's turn and for one of the connections that locks may
// have.
func (c *call) enter(ctx context.Context) error {
	slots, nested := chain(ctx, c.db, c.key)
	if nested {
		return ErrNested
	}
	limit := c.db.Stats().MaxOpenConnections
	capacity := math.MaxInt32 // a limit of 0 is none
	if limit > 0 {
		capacity = max(limit-1, 1) // on a pool of one the lock gets that one
	}
	if slots+1 > capacity || c.lease && limit == 1 {
		return ErrPoolTooSmall
	}

	pools.Lock()
	c.pool = pools.of[c.db]
	if c.pool == nil {
		c.pool = &pool{keys: map[Key]*keyLine{}}
		pools.of[c.db] = c.pool
	}
	c.pool.callers++
	c.turns = c.pool.keys[c.key]
	if c.turns == nil {
		c.turns = &keyLine{line: line{capacity: exclusive}}
		c.pool.keys[c.key] = c.turns
	}
	c.turns.callers++
	c.pool.conns.capacity = capacity
	pools.Unlock()

	weight := exclusive
	if c.Shared {
		weight = 1
	}
	if err := c.queue(ctx, &c.turns.line, &ticket{weight: weight, slots: slots}, c.try); err != nil {
		c.gaveUp = ctx.Err() != nil
		c.leave()
		return err
	}
	c.weight = weight
	if err := c.queue(ctx, &c.pool.conns, &ticket{weight: 1, slots: slots}, false); err != nil {
		c.leave()
		return err
	}
	c.slot = 1
	return nil
}

// queue waits in l until t is let through.
func (c *call) queue(ctx context.Context, l *line, t *ticket, try bool) error {
	pools.Lock()
	if l.tickets.Len() == 0 && l.used+t.weight <= l.capacity {
		l.used += t.weight
		pools.Unlock()
		return nil
	}
	if try {
		pools.Unlock()
		return ErrNotAcquired
	}
	if t.slots > 0 && c.pool.stuck+t.slots >= c.pool.conns.capacity {
		pools.Unlock()
		return ErrPoolTooSmall // every lock connection would wait for another one
	}
	c.pool.stuck += t.slots
	t.ready = make(chan struct{})
	place := l.tickets.PushBack(t)
	pools.Unlock()

	through := false
	defer func() { // deferred, for a hook that panics in the queue
		if !through {
			c.pool.stepOut(l, t, place)
		}
	}()
	err := c.stand(ctx, t)
	through = err == nil
	return err
}

// stepOut takes t out of l, where it has waited in vain.
func (p *pool) stepOut(l *line, t *ticket, place *list.Element) {
	pools.Lock()
	defer pools.Unlock()
	select {
	case <-t.ready: // let through at the same moment
		l.used -= t.weight
	default:
		l.tickets.Remove(place)
		p.stuck -= t.slots
	}
	p.letThrough(l) // who was behind may fit now
}

// stand waits for t, and tells of it from time to time.
func (c *call) stand(ctx context.Context, t *ticket) error {
	for {
		var tick <-chan time.Time
		if c.Trace != nil && c.Trace.Waiting != nil {
			timer := time.NewTimer(time.Until(c.nextReport))
			defer timer.Stop()
			tick = timer.C
		}
		select {
		case <-t.ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
			c.report(ctx, c.lookUp(ctx))
		}
	}
}

func (p *pool) letThrough(l *line) {
	for place := l.tickets.Front(); place != nil; place = l.tickets.Front() {
		t := place.Value.(*ticket)
		if l.used+t.weight > l.capacity {
			return
		}
		l.tickets.Remove(place)
		l.used += t.weight
		p.stuck -= t.slots
		close(t.ready)
	}
}

// leave undoes enter, as far as it got. It may be called twice.
func (c *call) leave() {
	if c.pool == nil {
		return
	}
	if c.held != nil {
		c.held.released.Store(true)
	}
	pools.Lock()
	defer pools.Unlock()
	c.pool.conns.used -= c.slot
	c.pool.letThrough(&c.pool.conns)
	c.turns.used -= c.weight
	c.pool.letThrough(&c.turns.line)
	if c.turns.callers--; c.turns.callers == 0 {
		delete(c.pool.keys, c.key)
	}
	if c.pool.callers--; c.pool.callers == 0 {
		delete(pools.of, c.db)
	}
	c.pool = nil
}
