// Package storm starts many processes at the same moment on a fresh database, and then
// once more, and measures how long it takes until all are ready.
package storm

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/stats"
)

// Result is what was measured.
type Result struct {
	Rows []Row `json:"rows"`
}

// Row is what became of one fleet, in the middle of the rounds.
type Row struct {
	Way         string  `json:"way"`
	Connections string  `json:"connections"`
	N           int     `json:"processes"`
	Work        float64 `json:"work_ms"`
	Second      bool    `json:"second_start,omitempty"`
	Rounds      int     `json:"rounds"`
	Limit       float64 `json:"limit_ms"`
	Goroutines  bool    `json:"goroutines,omitempty"` // of one process, instead of processes

	Ready  float64 `json:"ready_ms"`  // until all were, of the rounds in which all were; 0 if there was none
	Winner float64 `json:"winner_ms"` // until the one that migrated was
	Failed int     `json:"failed"`    // processes, of all rounds, those that hung not counted
	Hung   int     `json:"hung"`      // that were given up at the limit
	Error  string  `json:"error,omitempty"`

	Opened     int `json:"connections_opened"`
	Most       int `json:"connections_at_once"`
	Statements int `json:"statements"`
}

// Plan is fleets of one kind.
type Plan struct {
	Connections Connections
	N           int
	Work        time.Duration
	Ways        []string
	Rounds      int           // of those who are ready in seconds; of the others one
	Limit       time.Duration // for a process to be ready
	Goroutines  bool          // each with a pool of its own, instead of processes: a thousand fit
}

// Connections are what a fleet has. Its zero value is as many as it likes.
type Connections struct {
	Pooled  int // of a PgBouncer
	Limited int // of a role
}

func (c Connections) String() string {
	switch {
	case c.Pooled > 0:
		return fmt.Sprintf("PgBouncer, %d", c.Pooled)
	case c.Limited > 0:
		return fmt.Sprintf("a limit of %d", c.Limited)
	}
	return "direct"
}

// Measure starts all fleets. Rounds of different ways alternate.
func (p Plan) Measure(ctx context.Context, l *lab.Lab, f *Fleet) (*Result, error) {
	tallies := make([]*tally, len(p.Ways))
	for i, way := range p.Ways {
		tallies[i] = newTally(p, way)
	}
	for round := range p.Rounds {
		for _, t := range tallies {
			if round > 0 && !t.quick() {
				continue
			}
			if err := p.round(ctx, l, f, t); err != nil {
				return nil, fmt.Errorf("%s, %d processes, %s: %w", t.cold.Way, p.N, p.Connections, err)
			}
		}
	}
	r := &Result{}
	for _, t := range tallies {
		rows := t.rows()
		for _, row := range rows {
			fmt.Fprintf(os.Stderr, "%-36s %-12s N=%-3d %5.0f ms second=%-5v ready %7.0f winner %6.0f failed %d hung %d conns %d/%d statements %d %s\n",
				row.Way, row.Connections, row.N, row.Work, row.Second, row.Ready, row.Winner, row.Failed, row.Hung, row.Opened, row.Most, row.Statements, row.Error)
		}
		r.Rows = append(r.Rows, rows...)
	}
	return r, nil
}

// tally is the rounds of one way, cold ones and second ones.
type tally struct {
	cold, second                   Row
	coldReady, winner, secondReady []time.Duration
}

func newTally(p Plan, way string) *tally {
	row := Row{
		Way: way, Connections: p.Connections.String(), N: p.N, Work: stats.Milliseconds(p.Work), Limit: stats.Milliseconds(p.Limit),
		Goroutines: p.Goroutines,
	}
	t := &tally{cold: row, second: row}
	t.second.Second = true
	return t
}

// quick reports whether the first round was ready in seconds: once is enough to wait for
// long.
func (t *tally) quick() bool {
	return t.cold.Hung == 0 && (len(t.coldReady) == 0 || t.coldReady[0] < 3*time.Second)
}

func (t *tally) rows() []Row {
	t.cold.Ready = stats.Milliseconds(stats.Median(t.coldReady))
	t.cold.Winner = stats.Milliseconds(stats.Median(t.winner))
	t.second.Ready = stats.Milliseconds(stats.Median(t.secondReady))
	if t.second.Rounds == 0 {
		return []Row{t.cold}
	}
	return []Row{t.cold, t.second}
}

// round starts a fleet on a fresh database, and again if all were ready.
func (p Plan) round(ctx context.Context, l *lab.Lab, f *Fleet, t *tally) error {
	db, err := l.Database(ctx)
	if err != nil {
		return err
	}
	defer db.Drop()
	dsn := db.DSN
	switch {
	case p.Connections.Pooled > 0:
		dsn, err = l.Pooled(ctx, p.Connections.Pooled, "pgx", dsn)
	case p.Connections.Limited > 0:
		dsn, err = l.Limited(ctx, p.Connections.Limited, dsn, db.Name)
	}
	if err != nil {
		return err
	}
	before, err := l.WorkIn(ctx, db.Name)
	if err != nil {
		return err
	}
	ready, winner, before, err := p.once(ctx, l, f, db.Name, dsn, before, &t.cold)
	if err != nil || ready == 0 {
		return err
	}
	t.coldReady, t.winner = append(t.coldReady, ready), append(t.winner, winner)
	ready, _, _, err = p.once(ctx, l, f, db.Name, dsn, before, &t.second)
	if err == nil && ready > 0 {
		t.secondReady = append(t.secondReady, ready)
	}
	return err
}

// once starts a fleet once. ready is zero if not all were.
func (p Plan) once(ctx context.Context, l *lab.Lab, f *Fleet, database, dsn string, before lab.Work, row *Row) (ready, winner time.Duration, after lab.Work, err error) {
	watched := watch(ctx, l, database)
	answers, err := p.do(ctx, f, job{Way: row.Way, DSN: dsn, Work: p.Work})
	most := watched()
	if err != nil {
		return 0, 0, after, err
	}
	failed := 0
	for _, a := range answers {
		ready = max(ready, a.Took)
		if a.Migrate > 0 {
			winner = max(winner, a.Took)
		}
		if a.Err == "" {
			continue
		}
		failed++
		if row.Error == "" {
			row.Error = brief(a.Err)
		}
		if a.Hung {
			row.Hung++
		} else {
			row.Failed++
		}
	}
	if err := l.Settle(ctx, database, p.Connections.Pooled > 0); err != nil {
		return 0, 0, after, err
	}
	if after, err = l.WorkIn(ctx, database); err != nil {
		return 0, 0, after, err
	}
	row.Rounds++
	row.Most = max(row.Most, most)
	row.Opened = after.Connections - before.Connections
	row.Statements = after.Statements - before.Statements
	if failed > 0 {
		ready = 0
	}
	return ready, winner, after, nil
}

// do has all do the job.
func (p Plan) do(ctx context.Context, f *Fleet, j job) ([]answer, error) {
	if !p.Goroutines {
		return f.Do(p.N, j, p.Limit)
	}
	ctx, cancel := context.WithTimeout(ctx, p.Limit)
	defer cancel()
	answers := make([]answer, p.N)
	at := time.Now()
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i] = do(ctx, at, j) })
	}
	all.Wait()
	return answers, nil
}

// watch looks now and then how many sessions a database has, until it is asked for the
// most.
func watch(ctx context.Context, l *lab.Lab, database string) (most func() int) {
	ctx, cancel := context.WithCancel(ctx)
	seen := make(chan int, 1)
	go func() {
		n := 0
		defer func() { seen <- n }()
		db, err := sql.Open("pgx", l.Server.DSN)
		if err != nil {
			return
		}
		defer db.Close()
		for ctx.Err() == nil {
			var now int
			if db.QueryRowContext(ctx, "SELECT numbackends FROM pg_stat_database WHERE datname = $1", database).Scan(&now) == nil {
				n = max(n, now)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return func() int { cancel(); return <-seen }
}

// brief is the first words of an error.
func brief(text string) string {
	if len(text) > 120 {
		return text[:120] + "…"
	}
	return text
}
