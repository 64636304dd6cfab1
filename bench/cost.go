package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
)

// cost measures uncontended locks and fenced transactions, with the drivers' own
// defaults. The contestants take turns call by call: the same statements in a row
// take half the time on some machines.
func cost(l *lab) table {
	t := table{name: "cost", units: "µs", heads: []string{"bootlock", "by hand"}, ratios: [][2]int{{0, 1}}}
	for _, driver := range []string{"pgx", "postgres"} {
		add := func(name string, often int, bootlock, byHand runnable) {
			t.rows = append(t.rows, row{name: name + ", " + driver, often: often, runs: []runnable{bootlock, byHand}})
		}
		add("WithXactLock", 200, l.warm(driver, uncontended(xactLock)), l.warm(driver, uncontended(plainXact)))
		add("Hold", 200, l.warm(driver, uncontended(advisorylock.Hold)), l.warm(driver, uncontended(plainXact)))
		add("Hold on a new session", 40, l.cold(driver, uncontended(advisorylock.Hold)), l.cold(driver, uncontended(plainXact)))
		add("transaction of one row, with Fence or without", 200, l.warm(driver, fenced(advisorylock.Fence)), l.warm(driver, fenced(nil)))
	}
	return t
}

// A task returns how long its part took that counts.
type task func(ctx context.Context, db *sql.DB) (time.Duration, error)

func uncontended(lock locker) task {
	return func(ctx context.Context, db *sql.DB) (time.Duration, error) {
		began := time.Now()
		err := lock(ctx, db, 1, func(context.Context) error { return nil })
		return time.Since(began), err
	}
}

// fenced is a transaction of one row within a Hold.
func fenced(fence func(ctx context.Context, tx *sql.Tx) error) task {
	return func(ctx context.Context, db *sql.DB) (took time.Duration, err error) {
		err = advisorylock.Hold(ctx, db, 1, func(ctx context.Context) error {
			began := time.Now()
			err := insert(ctx, db, fence)
			took = time.Since(began)
			return err
		})
		return took, err
	}
}

func (t task) figure(ctx context.Context, db *sql.DB) (figure, error) {
	took, err := t(ctx, db)
	return figure{values: []float64{1000 * milliseconds(took)}}, err
}

// warm runs t on a pool that stays open between its turns.
func (l *lab) warm(driver string, t task) runnable {
	var db *sql.DB
	return func(ctx context.Context) (figure, error) {
		if db == nil {
			var err error
			if db, err = sql.Open(driver, l.server.DSN); err != nil {
				return figure{}, err
			}
			l.pools = append(l.pools, db)
			if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS fenced (n int)"); err != nil {
				return figure{}, err
			}
		}
		return t.figure(ctx, db)
	}
}

// cold runs t on a new connection each time.
func (l *lab) cold(driver string, t task) runnable {
	return func(ctx context.Context) (f figure, err error) {
		err = withPool(driver, l.server.DSN, func(db *sql.DB) error {
			if err := db.PingContext(ctx); err != nil {
				return err
			}
			f, err = t.figure(ctx, db)
			return err
		})
		return f, err
	}
}

func insert(ctx context.Context, db *sql.DB, fence func(ctx context.Context, tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after the commit there is nothing to roll back
	if fence != nil {
		if err := fence(ctx, tx); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO fenced VALUES (1)"); err != nil {
		return err
	}
	return tx.Commit()
}
