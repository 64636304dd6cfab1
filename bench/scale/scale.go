// Package scale says what becomes of fleets that are larger than any machine here could
// start: a model of the server, the pooler and those who wait, in virtual time, fed with
// what things cost, as measured. Where fleets have been measured as well, the report
// prints both.
package scale

import (
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootlock/bootlock/bench/stats"
)

// Result is what becomes of fleets for which things cost what they do.
type Result struct {
	Checks []Check `json:"checks"` // fleets that were measured, too
	Large  []Row   `json:"large"`  // those that were not
}

// Check is a fleet of package storm, by the names that it has there.
type Check struct {
	Way         string `json:"way"`
	Connections string `json:"connections"`
	Row         Row    `json:"row"`
}

// World is where a fleet starts.
type World struct {
	Together    bool          `json:"together,omitempty"` // the processes and the pooler are on the server's machine
	Cores       int           `json:"cores"`              // of the server
	Connections int           `json:"connections"`        // that it has
	Pooled      int           `json:"pooled,omitempty"`   // of these, by way of a pooler on a core of its own; 0 is no pooler
	Network     time.Duration `json:"network_ns"`         // a round trip
}

// Row is what became of one fleet.
type Row struct {
	World World   `json:"world"`
	Way   string  `json:"way"` // of the model
	N     int     `json:"processes"`
	Work  float64 `json:"work_ms"`
	Limit float64 `json:"limit_ms"` // of virtual time

	All        float64 `json:"all_ready_ms"`    // until all were ready; 0 if not all were
	Ready      int     `json:"ready"`           // processes
	Failed     int     `json:"failed"`          // that gave up
	Winner     float64 `json:"winner_ms"`       // until the one that migrated was ready; 0 if nobody did
	Stuck      bool    `json:"stuck,omitempty"` // nothing happened any more, and not all were ready
	Load       float64 `json:"load"`            // the share of the server's CPU that was in use
	Most       int     `json:"connections_at_once"`
	Opened     int     `json:"connections_opened"`
	Refused    int     `json:"connections_refused"`
	Statements float64 `json:"statements_per_second"`
}

// Simulate has n processes start at the same moment.
func (w World) Simulate(costs Costs, way string, n int, work, limit time.Duration) Row {
	c := newClock(uint64(n)) //nolint:gosec // a seed
	s := &server{costs: costs, cpu: c.addCores(w.Cores), network: w.Network, limit: w.Connections, locks: map[string]*lock{}}
	if w.Together {
		s.clients = s.cpu
	}
	if w.Pooled > 0 {
		s.limit = w.Pooled
		if s.pooling = s.cpu; !w.Together {
			s.pooling = c.addCores(1)
		}
	}
	row := Row{World: w, Way: way, N: n, Work: stats.Milliseconds(work), Limit: stats.Milliseconds(limit)}
	for range n {
		c.spawn(func(p *party) {
			if !(&process{party: p, server: s}).start(way, work) {
				row.Failed++
				return
			}
			row.Ready++
			if s.winner == p {
				row.Winner = stats.Milliseconds(c.now)
			}
			if row.Ready == n {
				row.All = stats.Milliseconds(c.now)
			}
		})
	}
	row.Stuck = c.run(limit) && row.Ready+row.Failed < n
	row.Load = s.cpu.used / float64(c.now) / s.cpu.n
	row.Most, row.Opened, row.Refused = s.most, s.connected, s.refused
	row.Statements = float64(s.statements) / c.now.Seconds()
	return row
}

// Large has fleets of these sizes start in two worlds: on a server with PostgreSQL's
// own number of connections, and behind a pooler. The migration takes ten seconds.
func Large(costs Costs, sizes []int) []Row {
	direct := World{Cores: 4, Connections: 100, Network: 500 * time.Microsecond}
	pooled := direct
	pooled.Pooled = 20
	var rows []*Row
	var all errgroup.Group
	all.SetLimit(runtime.NumCPU())
	for _, w := range []World{direct, pooled} {
		for _, n := range sizes {
			for _, way := range Ways() {
				row := &Row{}
				rows = append(rows, row)
				all.Go(func() error {
					*row = w.Simulate(costs, way, n, 10*time.Second, 5*time.Minute)
					return nil
				})
			}
		}
	}
	_ = all.Wait() // nothing fails
	values := make([]Row, len(rows))
	for i, row := range rows {
		values[i] = *row
	}
	return values
}
