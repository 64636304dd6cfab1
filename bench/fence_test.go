package bench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/bench/stats"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// BenchmarkFence measures what Fence adds to a transaction that inserts one row:
// one with it and one without take turns, so that a busy machine slows them alike.
func BenchmarkFence(b *testing.B) {
	for _, driver := range drivers {
		b.Run(driver, func(b *testing.B) {
			db := warm(b, driver, pgtest.Shared(b).NewDB(b), 2)
			sqltest.Exec(b, db, "CREATE TABLE fenced (n int)")
			var plain, fenced []time.Duration
			err := advisorylock.Hold(b.Context(), db, 1, func(ctx context.Context) error {
				for range b.N {
					plain = append(plain, timed(b, func() error { return insert(ctx, db, nil) }))
					fenced = append(fenced, timed(b, func() error { return insert(ctx, db, advisorylock.Fence) }))
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			reportMedian(b, "plain-µs", plain)
			reportMedian(b, "fenced-µs", fenced)
		})
	}
}

func insert(ctx context.Context, db *sql.DB, first func(ctx context.Context, tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after the commit there is nothing to roll back
	if first != nil {
		if err := first(ctx, tx); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO fenced VALUES (1)"); err != nil {
		return err
	}
	return tx.Commit()
}

// BenchmarkHold measures a Hold that nobody is in the way of, next to a lock by
// hand: after a holder without fenced transactions, and after one with four of
// them. In the last figure the session of the old holder was ended, and its four
// transactions commit as soon as the next one waits.
func BenchmarkHold(b *testing.B) {
	for _, driver := range drivers {
		b.Run(driver, func(b *testing.B) {
			dsn := pgtest.Shared(b).NewDB(b)
			old, next, admin := warm(b, driver, dsn, 6), warm(b, driver, dsn, 2), warm(b, driver, dsn, 1)
			sqltest.Exec(b, admin, "CREATE TABLE fenced (n int)")
			hold := func() error { return inHold(b.Context(), next, 1, func() {}) }
			before := func(n int) {
				err := advisorylock.Hold(b.Context(), old, 1, func(ctx context.Context) error {
					for range n {
						if err := insert(ctx, old, advisorylock.Fence); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			var byHand, alone, after, lost []time.Duration
			for range b.N {
				byHand = append(byHand, timed(b, func() error { return blocking(b.Context(), next, 1, func() {}) }))
				before(0)
				alone = append(alone, timed(b, hold))
				before(4)
				after = append(after, timed(b, hold))
				lost = append(lost, holdAfterLoss(b, old, admin, hold))
			}
			reportMedian(b, "by-hand-µs", byHand)
			reportMedian(b, "hold-µs", alone)
			reportMedian(b, "after-4-fenced-µs", after)
			reportMedian(b, "lost-4-fenced-µs", lost)
		})
	}
}

// holdAfterLoss is the time of hold from the commits of the lost holder on.
func holdAfterLoss(b *testing.B, old, admin *sql.DB, hold func() error) (took time.Duration) {
	b.Helper()
	err := advisorylock.Hold(b.Context(), old, 1, func(ctx context.Context) error {
		var txs []*sql.Tx
		for range 4 {
			tx, err := old.BeginTx(context.WithoutCancel(ctx), nil)
			if err == nil {
				err = advisorylock.Fence(ctx, tx)
			}
			if err != nil {
				return err
			}
			txs = append(txs, tx)
		}
		sqltest.Exec(b, admin, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 1"+
			" AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
		held := make(chan error, 1)
		go func() { held <- hold() }()
		for waits := 0; waits == 0; {
			waits = sqltest.Ask[int](b, admin, fmt.Sprintf("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"+
				" AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"))
		}
		began := time.Now()
		var err error
		for _, tx := range txs {
			err = errors.Join(err, tx.Commit())
		}
		err = errors.Join(err, <-held)
		took = time.Since(began)
		return err
	})
	if !errors.Is(err, advisorylock.ErrLost) {
		b.Fatal(err)
	}
	return took
}

func timed(b *testing.B, do func() error) time.Duration {
	b.Helper()
	began := time.Now()
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

func reportMedian(b *testing.B, unit string, samples []time.Duration) {
	b.ReportMetric(float64(stats.Median(samples).Nanoseconds())/1000, unit)
	b.ReportMetric(0, "ns/op") // is of all together
}
