// Package waiting measures what those who wait cost: the server, its log, and what else
// goes on in the database.
package waiting

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/stats"
	"github.com/bootlock/bootlock/test/pgtest"
)

// Result is what was measured.
type Result struct {
	Waiters int     `json:"waiters"`
	For     float64 `json:"for_ms"`
	Rows    []Row   `json:"rows"`
}

// Row is one peer.
type Row struct {
	Peer        string  `json:"peer"`
	Own         bool    `json:"own,omitempty"`
	Connections string  `json:"connections"`
	Statements  float64 `json:"statements_per_second_and_waiter"`
	Errors      int     `json:"error_lines"`
	Xmin        float64 `json:"with_backend_xmin"`  // the share of looks at which a waiter kept a snapshot
	Oldest      float64 `json:"oldest_snapshot_ms"` // how long one waiter was seen with one snapshot
	Sessions    int     `json:"sessions"`           // of the waiters, at most
	Index       float64 `json:"index_ms"`           // CREATE INDEX CONCURRENTLY; 0 if it was not done before the holder was
	GaveUp      int     `json:"gave_up"`            // waiters, before the holder was done
	Error       string  `json:"error,omitempty"`
}

// Plan says how much to measure.
type Plan struct {
	Waiters int
	For     time.Duration
}

// Measure measures every peer direct, and bootlock also through a pooler of four.
func (p Plan) Measure(ctx context.Context, l *lab.Lab) (*Result, error) {
	r := &Result{Waiters: p.Waiters, For: stats.Milliseconds(p.For)}
	for _, pooled := range []int{0, 4} {
		for _, peer := range peers.All() {
			if pooled > 0 && !peer.Own {
				continue
			}
			row, err := p.measure(ctx, l, peer, pooled)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", peer.Name, err)
			}
			r.Rows = append(r.Rows, row)
		}
	}
	return r, nil
}

const us = "bench" // the application_name of those who only look

func (p Plan) measure(ctx context.Context, l *lab.Lab, peer peers.Peer, pooled int) (Row, error) {
	row := Row{Peer: peer.Name, Own: peer.Own, Connections: "direct"}
	base, err := l.Database(ctx)
	if err != nil {
		return row, err
	}
	defer base.Drop()
	looks, err := lab.Pool("pgx", pgtest.WithParams(base.DSN, "application_name", us), 2)
	if err != nil {
		return row, err
	}
	defer looks.Close()
	if _, err := looks.ExecContext(ctx, "CREATE EXTENSION pg_stat_statements; CREATE TABLE busy AS SELECT generate_series(1, 1000) AS n"); err != nil {
		return row, err
	}
	dsn := base.DSN
	if pooled > 0 {
		row.Connections = fmt.Sprintf("PgBouncer, %d", pooled)
		if dsn, err = l.Pooled(ctx, pooled, "pgx", dsn); err != nil {
			return row, err
		}
	}
	locks, closeAll, err := peer.Parties(ctx, dsn, p.Waiters+1)
	if err != nil {
		return row, err
	}
	defer closeAll()
	var all sync.WaitGroup
	defer all.Wait()
	bounded, cancel := context.WithTimeout(ctx, p.For+time.Minute)
	defer cancel()
	var mu sync.Mutex
	released := false
	err = locks[0](bounded, func(context.Context) error {
		for _, lock := range locks[1:] {
			all.Go(func() {
				err := lock(bounded, func(context.Context) error { return nil })
				mu.Lock()
				defer mu.Unlock()
				if err != nil && !released {
					row.GaveUp++
					row.Error = err.Error()
				}
			})
		}
		err := p.look(bounded, l, looks, base.Name, &row)
		mu.Lock()
		defer mu.Unlock()
		released = true
		return err
	})
	// Those who poll have their turns long after this, and it is not the time for that.
	cancel()
	return row, err
}

// look is what the holder does: it counts, and creates an index beside the waiters.
func (p Plan) look(ctx context.Context, l *lab.Lab, db *sql.DB, database string, row *Row) error {
	time.Sleep(time.Second) // all wait
	errorsBefore, err := l.ErrorLines(ctx)
	if err != nil {
		return err
	}
	before, err := statements(ctx, db, database)
	if err != nil {
		return err
	}
	began := time.Now()
	ends, cancel := context.WithDeadline(ctx, began.Add(p.For))
	defer cancel()
	longer, cancelIndex := context.WithDeadline(ctx, began.Add(p.For+time.Second)) // its end is an ERROR line, too
	defer cancelIndex()
	var index sync.WaitGroup
	var took time.Duration
	index.Go(func() {
		started := time.Now()
		if _, err := db.ExecContext(longer, "CREATE INDEX CONCURRENTLY ON busy (n)"); err == nil {
			took = time.Since(started)
		}
	})
	if err := snapshots(ends, db, row); err != nil {
		return err
	}
	after, err := statements(ctx, db, database)
	if err != nil {
		return err
	}
	row.Statements = float64(after-before) / time.Since(began).Seconds() / float64(p.Waiters)
	errorsAfter, err := l.ErrorLines(ctx)
	if err != nil {
		return err
	}
	row.Errors = errorsAfter - errorsBefore
	index.Wait()
	row.Index = stats.Milliseconds(took)
	return nil
}

// statements is how many were executed in a database, but for those of this package.
func statements(ctx context.Context, db *sql.DB, database string) (n int, err error) {
	err = db.QueryRowContext(ctx, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
		WHERE d.datname = $1 AND s.query NOT LIKE '%pg_stat_%'`, database).Scan(&n)
	return n, err
}

// snapshots looks at the waiters ten times a second until ctx ends.
func snapshots(ctx context.Context, db *sql.DB, row *Row) error {
	since := map[string]time.Time{} // each snapshot has been seen
	looks, with := 0, 0
	for ctx.Err() == nil {
		sessions, kept, err := look(context.WithoutCancel(ctx), db)
		if err != nil {
			return err
		}
		now, seen := time.Now(), map[string]time.Time{}
		for _, id := range kept {
			first, ok := since[id]
			if !ok {
				first = now
			}
			seen[id] = first
			row.Oldest = max(row.Oldest, stats.Milliseconds(now.Sub(first)))
		}
		since = seen
		looks++
		if len(seen) > 0 {
			with++
		}
		row.Sessions = max(row.Sessions, sessions)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	row.Xmin = float64(with) / float64(max(looks, 1))
	return nil
}

// look returns how many sessions the waiters have, and names the snapshots that these
// keep.
func look(ctx context.Context, db *sql.DB) (sessions int, kept []string, err error) {
	rows, err := db.QueryContext(ctx, `SELECT concat(pid, ' ', query_start, ' ', backend_xmin), backend_xmin IS NOT NULL
		FROM pg_stat_activity WHERE datname = current_database() AND application_name <> $1 AND backend_type = 'client backend'`, us)
	if err != nil {
		return 0, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var has bool
		if err := rows.Scan(&id, &has); err != nil {
			return 0, nil, err
		}
		sessions++
		if has {
			kept = append(kept, id)
		}
	}
	return sessions, kept, rows.Err()
}
