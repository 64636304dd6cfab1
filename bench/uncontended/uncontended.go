// Package uncontended measures what a lock costs that nobody else wants: time,
// allocations and round trips, on a local server and over a network of some length.
//
// All that is compared takes turns in one loop, in an order that moves on by one each
// time, so that a busy machine slows everybody alike.
package uncontended

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/stats"
	"github.com/bootlock/bootlock/bench/wire"
	"github.com/bootlock/bootlock/test/pgtest"
)

// Result is what was measured, one row for each task and mode.
type Result struct {
	Rows []Row `json:"rows"`
}

// Row is one task in one mode of a driver.
type Row struct {
	Group  string  `json:"group"` // what is compared with each other: "lock", "Ensure", …
	Task   string  `json:"task"`
	Own    bool    `json:"own,omitempty"`
	Module string  `json:"module,omitempty"`
	Mode   string  `json:"mode"` // such as "lib/pq" or "pgx, exec"
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Ratio  float64 `json:"ratio,omitempty"` // of its median to that of the group's floor, by turns
	Allocs int     `json:"allocations"`
	Bytes  int     `json:"bytes"`
	Trips  float64 `json:"round_trips"`
	At1    float64 `json:"p50_ms_at_1_ms"`  // with round trips of 1 ms
	At10   float64 `json:"p50_ms_at_10_ms"` // and of 10 ms
}

// Mode is a driver and what it is told.
type Mode struct {
	Name, Driver string
	Params       []string
}

// Modes returns those that are measured. Peers are measured in the first and the last.
func Modes() []Mode {
	modes := []Mode{{Name: "pgx", Driver: "pgx"}}
	for _, m := range []string{"cache_describe", "describe_exec", "exec", "simple_protocol"} {
		modes = append(modes, Mode{"pgx, " + m, "pgx", []string{"default_query_exec_mode", m}})
	}
	return append(modes, Mode{Name: "lib/pq", Driver: "postgres"})
}

// Plan says how much to measure.
type Plan struct {
	Rounds  int // of the loop on the local server
	Delayed int // of each of those over a network
}

// Measure measures all.
func (p Plan) Measure(ctx context.Context, l *lab.Lab) (*Result, error) {
	r := &Result{}
	modes := Modes()
	for i, mode := range modes {
		everybody := i == 0 || i == len(modes)-1
		for _, g := range groups() {
			rows, err := p.group(ctx, l, g, mode, everybody)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", g.name, mode.Name, err)
			}
			r.Rows = append(r.Rows, rows...)
		}
	}
	return r, nil
}

// opened is a task that is ready to be run.
type opened struct {
	task
	run    func(ctx context.Context) error
	before func(ctx context.Context) error // not timed
	close  func() error
}

func (p Plan) group(ctx context.Context, l *lab.Lab, g group, mode Mode, everybody bool) ([]Row, error) {
	db, err := l.Database(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Drop()
	var tasks []task
	for _, t := range g.tasks {
		if (everybody || t.own || t.floor) && (t.onlyOn == "" || t.onlyOn == mode.Driver) {
			tasks = append(tasks, t)
		}
	}
	rows := make([]Row, len(tasks))
	for i, t := range tasks {
		rows[i] = Row{Group: g.name, Task: t.name, Own: t.own, Module: t.module, Mode: mode.Name}
	}
	dsn := pgtest.WithParams(db.DSN, mode.Params...)
	run := func(dsn string, do func(ready []opened) error) error {
		ready, err := open(ctx, g, tasks, mode.Driver, dsn)
		if err == nil {
			err = do(ready)
		}
		for _, o := range ready {
			err = errors.Join(err, o.close())
		}
		return err
	}
	err = run(dsn, func(ready []opened) error {
		put := func(i int, q stats.Quantiles) { rows[i].P50, rows[i].P99 = q.P50, q.P99 }
		return errors.Join(measure(ctx, ready, p.Rounds, true, put), allocations(ctx, ready, rows))
	})
	if err != nil {
		return nil, err
	}
	type network struct {
		delay time.Duration
		do    func(ready []opened, w *wire.Wire) error
	}
	networks := []network{{0, func(ready []opened, w *wire.Wire) error { return trips(ctx, ready, w, rows) }}}
	if everybody {
		delayed := func(put func(i int, q stats.Quantiles)) func([]opened, *wire.Wire) error {
			return func(ready []opened, _ *wire.Wire) error { return measure(ctx, ready, p.Delayed, false, put) }
		}
		networks = append(networks,
			network{time.Millisecond, delayed(func(i int, q stats.Quantiles) { rows[i].At1 = q.P50 })},
			network{10 * time.Millisecond, delayed(func(i int, q stats.Quantiles) { rows[i].At10 = q.P50 })})
	}
	for _, n := range networks {
		w, err := wire.New(dsn, n.delay)
		if err != nil {
			return nil, err
		}
		err = run(w.DSN, func(ready []opened) error { return n.do(ready, w) })
		w.Close()
		if err != nil {
			return nil, err
		}
	}
	for i := range rows {
		if floor := rows[0].P50; floor > 0 {
			rows[i].Ratio = rows[i].P50 / floor
		}
	}
	return rows, nil
}

// open gives each task a pool of its own, or all the same one, which has its connections
// already.
func open(ctx context.Context, g group, tasks []task, driver, dsn string) (ready []opened, err error) {
	var db *sql.DB
	for _, t := range tasks {
		if db == nil || !g.onePool {
			if db, err = lab.Pool(driver, dsn, t.connections); err != nil {
				return ready, err
			}
		}
		o, err := t.open(ctx, db, dsn)
		if err != nil {
			return ready, errors.Join(fmt.Errorf("%s: %w", t.name, err), db.Close())
		}
		closeTask := o.close
		o.task, o.close = t, func() error { return errors.Join(closeTask(), db.Close()) }
		ready = append(ready, o)
		for range 3 { // whatever is slow the first time
			if _, err := o.once(ctx); err != nil {
				return ready, fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	return ready, nil
}

func (o opened) once(ctx context.Context) (time.Duration, error) {
	if o.before != nil {
		if err := o.before(ctx); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	err := o.run(ctx)
	return time.Since(began), err
}

// measure runs each task so often, in turns or one after the other: over a slow network
// turns would leave each connection idle for so long that pgx asks first whether it is
// alive.
func measure(ctx context.Context, ready []opened, rounds int, turns bool, put func(i int, q stats.Quantiles)) error {
	samples := make([][]time.Duration, len(ready))
	for n := range rounds * len(ready) {
		at := (n/len(ready) + n) % len(ready)
		if !turns {
			at = n / rounds
		}
		if !turns && n%rounds == 0 {
			if _, err := ready[at].once(ctx); err != nil {
				return fmt.Errorf("%s: %w", ready[at].name, err)
			}
		}
		took, err := ready[at].once(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", ready[at].name, err)
		}
		samples[at] = append(samples[at], took)
	}
	for i := range ready {
		put(i, stats.Of(samples[i]))
	}
	return nil
}

// allocations is what one run allocates, of twenty. What before allocates is counted
// apart.
func allocations(ctx context.Context, ready []opened, rows []Row) error {
	const runs = 20
	for i, o := range ready {
		var allocs, bytes uint64
		for range runs {
			if o.before != nil {
				if err := o.before(ctx); err != nil {
					return err
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := o.run(ctx); err != nil {
				return err
			}
			runtime.ReadMemStats(&after)
			allocs += after.Mallocs - before.Mallocs
			bytes += after.TotalAlloc - before.TotalAlloc
		}
		rows[i].Allocs, rows[i].Bytes = int(allocs/runs), int(bytes/runs)
	}
	return nil
}

// trips is how many round trips one run takes, of three.
func trips(ctx context.Context, ready []opened, w *wire.Wire, rows []Row) error {
	const runs = 3
	for i, o := range ready {
		if _, err := o.once(ctx); err != nil {
			return err
		}
		var n int64
		for range runs {
			if o.before != nil {
				if err := o.before(ctx); err != nil {
					return err
				}
			}
			before := w.Trips()
			if err := o.run(ctx); err != nil {
				return err
			}
			n += w.Trips() - before
		}
		rows[i].Trips = float64(n) / runs
	}
	return nil
}

// drop is the time before a cold start that is not timed.
func drop(db *sql.DB) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, "DROP SCHEMA IF EXISTS app CASCADE")
		return err
	}
}
