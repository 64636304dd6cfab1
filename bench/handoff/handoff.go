// Package handoff measures the time from the moment that a holder lets go to the
// moment that the next one is inside.
package handoff

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/stats"
)

// Result is what was measured.
type Result struct {
	Rows []Row `json:"rows"`
}

// Row is one peer with so many waiters.
type Row struct {
	Peer    string `json:"peer"`
	Own     bool   `json:"own,omitempty"`
	Waiters int    `json:"waiters"`
	stats.Quantiles
	Errors int    `json:"errors,omitempty"`
	Error  string `json:"error,omitempty"` // the first
}

// Plan says how much to measure.
type Plan struct {
	Waiters []int
	For     time.Duration // each peer, with each number of waiters
	Longer  time.Duration // those that others are compared with
}

// wait is how long a waiter waits for its turn, about, whatever the number of waiters:
// long enough for every way to wait to have shown itself.
const wait = 1500 * time.Millisecond

// Measure measures every peer.
func (p Plan) Measure(ctx context.Context, l *lab.Lab) (*Result, error) {
	r := &Result{}
	for _, waiters := range p.Waiters {
		for _, peer := range peers.All() {
			d := p.For
			if peer.Own || peer.Name == peers.ByHand {
				d = max(d, p.Longer)
			}
			row, err := measure(ctx, l, peer, waiters, d)
			if err != nil {
				return nil, fmt.Errorf("%s, %d waiters: %w", peer.Name, waiters, err)
			}
			r.Rows = append(r.Rows, row)
		}
	}
	return r, nil
}

// turns is one peer and those who take its lock in turns.
type turns struct {
	peer peers.Peer
	mean time.Duration // of a turn

	mu      sync.Mutex
	row     Row
	samples []time.Duration
}

// measure has several groups of waiters + 1 parties take turns for so long, each group
// in a database of its own: few waiters make few handoffs.
func measure(ctx context.Context, l *lab.Lab, peer peers.Peer, waiters int, d time.Duration) (Row, error) {
	t := &turns{peer: peer, mean: wait / time.Duration(waiters), row: Row{Peer: peer.Name, Own: peer.Own, Waiters: waiters}}
	var ready []func(ctx context.Context)
	for range max(1, 16/waiters) {
		g, closed, err := t.open(ctx, l, waiters+1)
		if err != nil {
			return Row{}, err
		}
		defer closed()
		ready = append(ready, g.run)
	}
	bounded, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var all sync.WaitGroup
	for _, run := range ready {
		all.Go(func() { run(bounded) })
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(d + 30*time.Second):
		return Row{}, errors.New("does not end with its context")
	}
	t.row.Quantiles = stats.Of(t.samples)
	return t.row, nil
}

// group is parties that take one lock.
type group struct {
	*turns
	locks []peers.Lock

	mu       sync.Mutex
	inside   int
	released time.Time     // by the last holder; zero: not yet
	entered  chan struct{} // closed when the next one is inside
}

func (t *turns) open(ctx context.Context, l *lab.Lab, parties int) (g *group, closeAll func(), err error) {
	db, err := l.Database(ctx)
	if err != nil {
		return nil, nil, err
	}
	locks, closed, err := t.peer.Parties(ctx, db.DSN, parties)
	if err != nil {
		db.Drop()
		return nil, nil, err
	}
	return &group{turns: t, locks: locks, entered: make(chan struct{})}, func() { closed(); db.Drop() }, nil
}

func (g *group) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, lock := range g.locks {
		all.Go(func() {
			for ctx.Err() == nil {
				var next <-chan struct{}
				err := lock(ctx, func(ctx context.Context) (err error) { next, err = g.hold(ctx); return err })
				if err != nil && ctx.Err() == nil {
					g.failed(err)
					return
				}
				select { // whoever had a turn asks again when another one has it: to hand over to oneself is easy
				case <-next:
				case <-ctx.Done():
				}
			}
		})
	}
	all.Wait()
}

func (t *turns) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.row.Errors++
	if t.row.Error == "" {
		t.row.Error = err.Error()
	}
}

func (t *turns) took(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.samples = append(t.samples, d)
}

// hold is a turn. Turns are of random length, so that a release falls anywhere in what
// the others do meanwhile. next is closed when the next one is inside.
func (g *group) hold(ctx context.Context) (next <-chan struct{}, err error) {
	now := time.Now()
	g.mu.Lock()
	released := g.released
	g.inside++
	if g.inside > 1 {
		err = errors.New("two are inside at the same time")
	}
	close(g.entered)
	g.entered = make(chan struct{})
	next = g.entered
	g.mu.Unlock()
	if !released.IsZero() && ctx.Err() == nil {
		g.took(now.Sub(released))
	}
	select {
	case <-time.After(rand.N(2 * g.mean)):
	case <-ctx.Done():
	}
	g.mu.Lock()
	g.inside--
	g.released = time.Now()
	g.mu.Unlock()
	return next, err
}
