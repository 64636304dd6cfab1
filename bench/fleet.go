package main

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

// statements is how many a migration has.
const statements = 20

// A migration is short statements. Like a migration library it first finds out
// whether it has run.
type migration struct {
	schema string
	work   time.Duration
	ran    *atomic.Int32
}

func (m migration) upToDate(ctx context.Context, db *sql.DB) (done bool, err error) {
	err = db.QueryRowContext(ctx, "SELECT to_regclass('"+m.schema+".done') IS NOT NULL").Scan(&done)
	return done, err
}

func (m migration) run(ctx context.Context, db *sql.DB) error {
	if done, err := m.upToDate(ctx, db); err != nil || done {
		return err
	}
	m.ran.Add(1)
	exec := func(statement string, arg any) error {
		_, err := db.ExecContext(ctx, fmt.Sprintf(statement, arg))
		return err
	}
	err := exec("CREATE TABLE %s.work (n int PRIMARY KEY)", m.schema)
	for n := 0; n < statements-2 && err == nil; n++ {
		err = exec("INSERT INTO "+m.schema+".work VALUES (%d)", n)
		if err == nil && m.work > 0 {
			err = exec("SELECT pg_sleep(%f)", m.work.Seconds()/(statements-2))
		}
	}
	if err == nil {
		err = exec("CREATE TABLE %s.done ()", m.schema)
	}
	return err
}

// A way makes a process ready: its schema is there and the migration has run.
type way func(ctx context.Context, db *sql.DB, m migration) error

// A mode is a kind of guard.
type mode struct {
	name  string
	guard func(m migration) schemaguard.Guard
	looks bool // it takes no lock once the migration has run
}

// modes are measured in fleets, starts and goose. Another mode is another line here.
var modes = []mode{
	{"Serialize", func(migration) schemaguard.Guard { return schemaguard.Guard{Serialize: true} }, false},
	{"UpToDate", func(m migration) schemaguard.Guard { return schemaguard.Guard{UpToDate: m.upToDate} }, true},
	{"Once", func(migration) schemaguard.Guard { return schemaguard.Guard{Once: "v1"} }, true},
}

func (m mode) guarded(ctx context.Context, db *sql.DB, work migration) error {
	return m.guard(work).Ensure(ctx, db, work.schema, work.run)
}

// byHand does what a guard does, with another lock. If it looks, it does so before
// it takes the lock and again when it has it.
func byHand(lock locker, looks bool) way {
	return func(ctx context.Context, db *sql.DB, m migration) error {
		if looks {
			if done, err := m.upToDate(ctx, db); err != nil || done {
				return err
			}
		}
		return lock(ctx, db, advisorylock.KeyOf(m.schema), func(ctx context.Context) error {
			if looks {
				if done, err := m.upToDate(ctx, db); err != nil || done {
					return err
				}
			}
			if _, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+m.schema); err != nil {
				return err
			}
			return m.run(ctx, db)
		})
	}
}

// A fleet is processes that start together, on one schema or on more.
type fleet struct {
	processes, schemas int
	work               time.Duration // of a migration, beside its statements
	limit              time.Duration // after which it is given up
}

// An end is when a process was ready or had failed.
type end struct {
	at  time.Time
	err error
}

// start returns when all are ready or have failed. The figure is in milliseconds.
func (f fleet) start(ctx context.Context, driver, dsn string, ready way) figure {
	ctx, cancel := context.WithTimeout(ctx, f.limit)
	defer cancel()
	var (
		all  sync.WaitGroup
		ran  = make([]atomic.Int32, f.schemas)
		ends = make(chan end, f.processes)
		gate = make(chan struct{})
	)
	for i := range f.processes {
		all.Go(func() {
			_ = withPool(driver, dsn, func(db *sql.DB) error {
				m := migration{fmt.Sprintf("%s%d", prefix, i%f.schemas), f.work, &ran[i%f.schemas]}
				<-gate
				err := ready(ctx, db, m)
				ends <- end{time.Now(), err}
				return nil
			})
		})
	}
	began := time.Now()
	close(gate)
	all.Wait()
	close(ends)
	var took time.Duration // without the time that it takes to close the pools
	var out figure
	for e := range ends {
		took = max(took, e.at.Sub(began))
		out.failure(e.err)
	}
	out.values, out.hung = []float64{milliseconds(took)}, took >= f.limit
	for i := range ran {
		if n := ran[i].Load(); n > 1 {
			out.failure(fmt.Errorf("the migration ran %d times", n))
		}
	}
	return out
}

func (f *figure) failure(err error) {
	if err == nil {
		return
	}
	f.failed++
	if f.err == nil {
		f.err = err
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// withPool gives fn a pool that is closed afterwards.
func withPool(driver, dsn string, fn func(db *sql.DB) error) error {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	return fn(db)
}

// starting measures a number of starts of a fleet, one after the other; the first
// is on schemas that are not there. Each is milliseconds and statements.
func (l *lab) starting(p place, driver string, f fleet, times int, ready way) runnable {
	return func(ctx context.Context) (out figure, err error) {
		dsn, err := l.fresh(ctx, p, driver)
		var before float64
		for n := 0; n < times && err == nil; n++ {
			one := f.start(ctx, driver, dsn, ready)
			var sent float64
			sent, err = l.statements(ctx)
			out.values = append(out.values, one.values[0], sent-before)
			out.failed, out.hung = out.failed+one.failed, out.hung || one.hung
			if out.err == nil {
				out.err = one.err
			}
			before = sent
		}
		return out, err
	}
}

// fleets starts the processes of one service, some of them more than there are
// connections.
func fleets(l *lab) table {
	t := table{
		name: "fleets", units: "ms until all are ready · statements",
		heads: []string{"bootlock", "polling by hand", "plain lock"}, ratios: [][2]int{{0, 1}, {0, 2}},
	}
	for _, s := range []situation{
		{place{pool: 2}, 40, 0},
		{place{pool: 4}, 40, 0},
		{place{pool: 4}, 300, 0},
		{place{pool: 4}, 1000, 0},
		{place{limited: true}, 60, 0},
		{place{limited: true}, 300, 0},
		{place{}, 8, 0},
		{place{}, 32, 0},
		{place{}, 90, 0},
		{place{}, 250, 0},
		{place{}, 32, 3 * time.Second},
	} {
		for _, m := range modes {
			f := fleet{s.n, 1, s.work, time.Minute}
			r := row{name: fmt.Sprintf("%v, %d, %s", s.place, s.n, m.name), runs: []runnable{
				l.starting(s.place, l.driver, f, 1, m.guarded),
				l.starting(s.place, l.driver, f, 1, byHand(polling, m.looks)),
				s.blocking(l.starting(s.place, l.driver, f, 1, byHand(plain, m.looks))),
			}}
			if s.work > 0 {
				r.name += fmt.Sprintf(", migration of %v", s.work)
			}
			if s.work > 0 || s.n > 100 {
				r.most = 3
			}
			t.rows = append(t.rows, r)
		}
	}
	return t
}

// guards are the modes as contestants.
func guards() (all []contestant[way]) {
	for _, m := range modes {
		all = append(all, contestant[way]{name: m.name, with: m.guarded})
	}
	return all
}

// starts compares the modes, on a new schema and on one that has been migrated.
func starts(l *lab) table {
	t := table{name: "starts", units: "first start: ms · statements; second start: ms · statements"}
	all := append(guards(), contestant[way]{"polling by hand", byHand(polling, true), false}, contestant[way]{"plain lock", byHand(plain, true), true})
	return compare(t, all, situations([]place{{}, {pool: 4}}, []int{60, 250}), func(s situation, ready way) runnable {
		return l.starting(s.place, l.driver, fleet{s.n, 1, 0, time.Minute}, 2, ready)
	})
}

// services starts services with a schema and a lock each. Their leases must leave
// connections for their migrations.
func services(l *lab) table {
	t := table{name: "services", units: "ms until all are ready · statements"}
	drivers := []contestant[string]{{name: "pgx", with: "pgx"}, {name: "lib/pq", with: "postgres"}}
	return compare(t, drivers, []situation{
		{place: place{pool: 4}, n: 6},
		{place: place{pool: 4}, n: 12},
		{place: place{pool: 2}, n: 6},
		{place: place{pool: 20}, n: 60},
		{place: place{limited: true}, n: 25},
	}, func(s situation, driver string) runnable {
		return l.starting(s.place, driver, fleet{s.n, s.n, 0, 30 * time.Second}, 1, modes[0].guarded)
	})
}

// goose compares with goose's lockers as they come, in a migration that takes a while.
func goose(l *lab) table {
	t := table{name: "goose", units: "ms until all are ready · statements, with a migration of 1.5 s"}
	all := append(guards(), contestant[way]{name: "goose's session locker", with: byHand(gooseSession, false)},
		contestant[way]{name: "goose's table locker", with: byHand(gooseTable, false)})
	return compare(t, all, situations([]place{{}}, []int{2, 8, 32}), func(s situation, ready way) runnable {
		return l.starting(s.place, l.driver, fleet{s.n, 1, 1500 * time.Millisecond, 2 * time.Minute}, 1, ready)
	})
}
