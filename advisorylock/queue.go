package advisorylock

import (
	"container/list"
	"context"
	"database/sql"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/bootlock/bootlock/internal/bounded"
)

// held is a lock that a callback's context knows of.
type held struct {
	db       *sql.DB
	key      Key
	outer    *held
	released atomic.Bool // the context may outlive the call
}

type heldKey struct{}

// heldBy returns the locks of the call chain of ctx that are on db, and whether
// one of them is key. elsewhere says that key is held through another *sql.DB,
// which may or may not be on the same database.
func heldBy(ctx context.Context, db *sql.DB, key Key) (chain []*held, nested, elsewhere bool) {
	h, _ := ctx.Value(heldKey{}).(*held)
	for ; h != nil; h = h.outer {
		switch {
		case h.released.Load():
		case h.db == db:
			chain = append(chain, h)
			nested = nested || h.key == key
		case h.key == key:
			elsewhere = true
		}
	}
	return chain, nested, elsewhere
}

// queue lets callers through in the order in which they came.
type queue struct {
	capacity int
	used     int
	waiting  list.List // of *turn
}

// turn is one caller's wait in a queue.
type turn struct {
	chain []*held       // the locks of its own call chain, each on a connection
	ready chan struct{} // closed when it was let through
}

// poolState is what the process knows of one *sql.DB, for as long as anybody
// calls.
type poolState struct {
	keys  map[Key]*keyState // those that are called for
	conns queue             // the connections that locks may have

	// idled counts, for each lock that is held, the turns that its call chain
	// waits for: its connection does nothing meanwhile.
	idled map[*held]int
}

type keyState struct {
	queue
	callers int
}

// registry is keyed by the *sql.DB itself: two of them on one database do not
// know of each other and meet on the server, as two processes do.
var registry = struct {
	sync.Mutex
	of map[*sql.DB]*poolState
}{of: map[*sql.DB]*poolState{}}

// place is what a caller has of the queues: first its turn at the key, then one
// of the connections that locks may have.
type place struct {
	db  *sql.DB
	key Key

	pool *poolState // nil before enter and after leave
	at   *keyState
	has  []*queue // those that have let it through
}

// enter waits for the key's turn and for one of the connections that locks may
// have; two says that the pool must allow two. A try waits for a connection only.
func (p *place) enter(ctx context.Context, two, try bool) error {
	chain, nested, _ := heldBy(ctx, p.db, p.key)
	if nested {
		return ErrNested
	}
	limit := p.db.Stats().MaxOpenConnections
	capacity := math.MaxInt32 // a limit of 0 is none
	if limit > 0 {
		capacity = max(limit-1, 1) // on a pool of one the lock gets that one
	}
	if len(chain)+1 > capacity || two && limit == 1 {
		return ErrPoolTooSmall
	}

	p.register(capacity)
	err := p.stand(ctx, &p.at.queue, &turn{chain: chain}, try)
	if err == nil {
		err = p.stand(ctx, &p.pool.conns, &turn{chain: chain}, false)
	}
	if err != nil {
		p.leave()
	}
	return err
}

func (p *place) register(capacity int) {
	registry.Lock()
	defer registry.Unlock()
	p.pool = registry.of[p.db]
	if p.pool == nil {
		p.pool = &poolState{keys: map[Key]*keyState{}, idled: map[*held]int{}}
		registry.of[p.db] = p.pool
	}
	p.at = p.pool.keys[p.key]
	if p.at == nil {
		p.at = &keyState{queue: queue{capacity: 1}}
		p.pool.keys[p.key] = p.at
	}
	p.at.callers++
	p.pool.conns.capacity = capacity
	p.pool.letThrough(&p.pool.conns) // SetMaxOpenConns may have been called meanwhile
}

// stand waits in q until t is let through.
func (p *place) stand(ctx context.Context, q *queue, t *turn, try bool) error {
	registry.Lock()
	if q.waiting.Len() == 0 && q.used < q.capacity {
		q.used++
		p.has = append(p.has, q)
		registry.Unlock()
		return nil
	}
	if try {
		registry.Unlock()
		return ErrNotAcquired
	}
	if q == &p.at.queue && len(t.chain) > 0 && p.pool.circle(t, p.key) {
		registry.Unlock()
		return errCircle
	}
	if p.pool.wouldStop(t) {
		registry.Unlock()
		return ErrPoolTooSmall
	}
	p.pool.idle(t, 1)
	t.ready = make(chan struct{})
	element := q.waiting.PushBack(t)
	registry.Unlock()

	through := false
	defer func() { // deferred, for a hook that panics in the queue
		if !through {
			p.pool.stepOut(q, t, element)
		}
	}()
	if _, through = bounded.Until(ctx, t.ready); !through {
		return bounded.Ended(ctx, ctx.Err())
	}
	p.has = append(p.has, q)
	return nil
}

// wouldStop reports whether every lock connection would wait for another one.
func (p *poolState) wouldStop(t *turn) bool {
	if len(t.chain) == 0 {
		return false
	}
	idle := len(p.idled)
	for _, h := range t.chain {
		if p.idled[h] == 0 {
			idle++
		}
	}
	return idle >= p.conns.capacity
}

// circle reports whether the caller that has key waits, itself or through others, for a
// lock of t's own call chain: none of them could ever go on.
func (p *poolState) circle(t *turn, key Key) bool {
	stuck := map[Key]bool{key: true} // and the keys that their callers wait for
	for n := 0; n < len(stuck); {
		n = len(stuck)
		for k, at := range p.keys {
			for e := at.waiting.Front(); e != nil; e = e.Next() {
				if e.Value.(*turn).hasAny(stuck) {
					stuck[k] = true
				}
			}
		}
	}
	return t.hasAny(stuck)
}

func (t *turn) hasAny(keys map[Key]bool) bool {
	return slices.ContainsFunc(t.chain, func(h *held) bool { return keys[h.key] && !h.released.Load() })
}

func (p *poolState) idle(t *turn, by int) {
	for _, h := range t.chain {
		if p.idled[h] += by; p.idled[h] == 0 {
			delete(p.idled, h)
		}
	}
}

// stepOut takes t out of q, where it has waited in vain.
func (p *poolState) stepOut(q *queue, t *turn, element *list.Element) {
	registry.Lock()
	defer registry.Unlock()
	select {
	case <-t.ready: // let through at the same moment
		q.used--
	default:
		q.waiting.Remove(element)
		p.idle(t, -1)
	}
	// The caller leaves now, which lets the next one through.
}

func (p *poolState) letThrough(q *queue) {
	for q.used < q.capacity && q.waiting.Len() > 0 {
		t := q.waiting.Remove(q.waiting.Front()).(*turn)
		q.used++
		p.idle(t, -1)
		close(t.ready)
	}
}

// leave undoes enter, as far as it got. It may be called twice.
func (p *place) leave() {
	if p.pool == nil {
		return
	}
	registry.Lock()
	defer registry.Unlock()
	for _, q := range p.has {
		q.used--
	}
	p.pool.letThrough(&p.pool.conns)
	p.pool.letThrough(&p.at.queue)
	if p.at.callers--; p.at.callers == 0 {
		delete(p.pool.keys, p.key)
	}
	if len(p.pool.keys) == 0 {
		delete(registry.of, p.db)
	}
	p.pool, p.has = nil, nil
}
