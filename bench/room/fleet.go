package main

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the drivers that a fleet may use
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/schemaguard"
)

// fleet is a number of processes that start together on a fresh schema. Each is
// a goroutine with a pool of its own: they share nothing but the server, and a
// thousand of them fit into a test.
type fleet struct {
	Driver     string
	DSN        string
	N          int
	Mode       string // "Serialize" or "UpToDate"
	Statements int    // of the migration
	Work       time.Duration
	Limit      time.Duration
}

// outcome is what became of a fleet.
type outcome struct {
	Ready    time.Duration // until all were ready
	Migrate  time.Duration // the longest migrate that did something
	Migrated int
	Failed   int
	Error    string // the first
	Hung     int    // of those that failed, how many were still waiting at the limit
}

func (f fleet) start() outcome {
	ctx, cancel := context.WithTimeout(context.Background(), f.Limit)
	defer cancel()
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		out  outcome
		gate = make(chan struct{})
	)
	for range f.N {
		all.Go(func() {
			<-gate
			took, err := f.process(ctx)
			mu.Lock()
			defer mu.Unlock()
			if took > 0 {
				out.Migrated++
				out.Migrate = max(out.Migrate, took)
			}
			if err != nil {
				out.Failed++
				if ctx.Err() != nil {
					out.Hung++
				}
				if out.Error == "" {
					out.Error = err.Error()
				}
			}
		})
	}
	began := time.Now()
	close(gate)
	all.Wait()
	out.Ready = time.Since(began)
	return out
}

// process is one start: it returns how long its migrate took, if there was
// anything left to do.
func (f fleet) process(ctx context.Context) (took time.Duration, err error) {
	db, err := sql.Open(f.Driver, f.DSN)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	migrate := func(ctx context.Context, db *sql.DB) error {
		began := time.Now()
		did, err := f.migrate(ctx, db)
		if did {
			took = time.Since(began)
		}
		return err
	}
	g := schemaguard.Guard{Serialize: true}
	if f.Mode == "UpToDate" {
		g = schemaguard.Guard{UpToDate: f.upToDate}
	}
	err = g.Ensure(ctx, db, "fleet", migrate)
	return took, err
}

func (f fleet) upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	var done bool
	err := db.QueryRowContext(ctx, "SELECT count(*) >= "+fmt.Sprint(f.Statements)+" FROM fleet.done").Scan(&done)
	return done, err
}

// migrate is short statements of its own each, as most migrations are, and a
// look at what is done already, as every migration library has.
func (f fleet) migrate(ctx context.Context, db *sql.DB) (did bool, err error) {
	if done, err := f.upToDate(ctx, db); err == nil && done {
		return false, nil
	}
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS fleet.done (n int PRIMARY KEY)"); err != nil {
		return true, err
	}
	for n := range f.Statements {
		if _, err := db.ExecContext(ctx, fmt.Sprintf("INSERT INTO fleet.done VALUES (%d)", n)); err != nil {
			return true, err
		}
		if f.Work > 0 {
			if _, err := db.ExecContext(ctx, fmt.Sprintf("SELECT pg_sleep(%f)", f.Work.Seconds()/float64(f.Statements))); err != nil {
				return true, err
			}
		}
	}
	return true, nil
}
