// Package herd has a thousand callers of one process want one lock at the same moment,
// on a small pool.
package herd

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/stats"
)

// Result is what was measured.
type Result struct {
	Callers int   `json:"callers"`
	Pool    int   `json:"pool"`
	Rows    []Row `json:"rows"`
}

// Row is one peer.
type Row struct {
	Peer        string  `json:"peer"`
	Own         bool    `json:"own,omitempty"`
	UsesPool    bool    `json:"uses_pool"` // the work under the lock is a statement through the pool, and not a pause of a millisecond
	Took        float64 `json:"took_ms"`   // until all were done; 0 if not all were
	Sequential  float64 `json:"sequential_ms"`
	Connections int     `json:"connections"`
	Done        int     `json:"done"`
	Failed      int     `json:"failed"`
	Error       string  `json:"error,omitempty"`
	Limit       float64 `json:"limit_ms"`
}

// Plan says how much to measure.
type Plan struct {
	Callers int
	Limit   time.Duration
}

const pool = 5

// Measure measures all peers, with both kinds of work.
func (p Plan) Measure(ctx context.Context, l *lab.Lab) (*Result, error) {
	r := &Result{Callers: p.Callers, Pool: pool}
	for _, usesPool := range []bool{false, true} {
		floor, err := p.sequential(ctx, l, usesPool)
		if err != nil {
			return nil, err
		}
		for _, peer := range peers.All() {
			row, err := p.measure(ctx, l, peer, usesPool)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", peer.Name, err)
			}
			row.Sequential = stats.Milliseconds(floor)
			r.Rows = append(r.Rows, row)
		}
	}
	return r, nil
}

func work(db *sql.DB, usesPool bool) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if !usesPool {
			time.Sleep(time.Millisecond)
			return nil
		}
		_, err := db.ExecContext(ctx, "SELECT 1")
		return err
	}
}

// sequential is how long the same calls take by hand, one after the other.
func (p Plan) sequential(ctx context.Context, l *lab.Lab, usesPool bool) (time.Duration, error) {
	base, err := l.Database(ctx)
	if err != nil {
		return 0, err
	}
	defer base.Drop()
	db, err := lab.Pool("pgx", base.DSN, pool)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	lock, closed, err := peers.ByName(peers.ByHand).Open(ctx, db)
	if err != nil {
		return 0, err
	}
	defer closed() //nolint:errcheck // its database is dropped
	began := time.Now()
	for range p.Callers {
		if err := lock(ctx, work(db, usesPool)); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func (p Plan) measure(ctx context.Context, l *lab.Lab, peer peers.Peer, usesPool bool) (Row, error) {
	row := Row{Peer: peer.Name, Own: peer.Own, UsesPool: usesPool, Limit: stats.Milliseconds(p.Limit)}
	base, err := l.Database(ctx)
	if err != nil {
		return row, err
	}
	dropped := false
	defer func() {
		if !dropped {
			base.Drop()
		}
	}()
	db, err := lab.Pool("pgx", base.DSN, pool)
	if err != nil {
		return row, err
	}
	defer db.Close()
	bounded, cancel := context.WithTimeout(ctx, p.Limit)
	defer cancel()
	var (
		all    sync.WaitGroup
		mu     sync.Mutex
		done   atomic.Int64
		gate   = make(chan struct{})
		do     = work(db, usesPool)
		failed = func(err error) {
			mu.Lock()
			defer mu.Unlock()
			if bounded.Err() != nil { // it was given up
				return
			}
			row.Failed++
			if row.Error == "" {
				row.Error = err.Error()
			}
		}
	)
	for range p.Callers {
		all.Go(func() {
			<-gate
			lock, closed, err := peer.Open(bounded, db)
			if err != nil {
				failed(err)
				return
			}
			defer closed() //nolint:errcheck // its database is dropped
			if err := lock(bounded, do); err != nil {
				failed(err)
				return
			}
			done.Add(1)
		})
	}
	most := connections(bounded, db)
	began := time.Now()
	close(gate)
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-bounded.Done():
	}
	took := time.Since(began)
	mu.Lock()
	defer mu.Unlock()
	row.Done = int(done.Load())
	if row.Done == p.Callers {
		row.Took = stats.Milliseconds(took)
	}
	cancel()
	row.Connections = <-most
	base.Drop() // those who do not look at their context lose their sessions
	dropped = true
	mu.Unlock()
	defer mu.Lock()
	select {
	case <-ended:
	case <-time.After(20 * time.Second): // some never come back; the process ends with the measurement
	}
	return row, nil
}

// connections sends the most that the pool has until ctx ends.
func connections(ctx context.Context, db *sql.DB) <-chan int {
	most := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			n = max(n, db.Stats().OpenConnections)
			time.Sleep(time.Millisecond)
		}
		most <- n
	}()
	return most
}
