package bench

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// BenchmarkWithXactLock measures WithXactLock side by side with the same four
// statements written by hand: each iteration runs both, in turns first, and the
// ratio is that of the medians. "ratio" is the figure to look at.
//
//	go test -run '^$' -bench WithXactLock -benchtime 20000x .
//
// The control does the same work twice by hand: how far its ratio is from 1 is
// how far that of the others can be trusted.
func BenchmarkWithXactLock(b *testing.B) {
	const key = advisorylock.Key(42)
	const create = "CREATE SCHEMA IF NOT EXISTS app"
	byHand := func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after Commit
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("SELECT pg_catalog.pg_advisory_xact_lock(%d)", key)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, create); err != nil {
			return err
		}
		return tx.Commit()
	}
	guarded := func(ctx context.Context, db *sql.DB) error {
		return advisorylock.WithXactLock(ctx, db, key, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, create)
			return err
		})
	}
	for _, driver := range drivers {
		b.Run(driver, func(b *testing.B) { compare(b, driver, guarded, byHand) })
		b.Run(driver+" control", func(b *testing.B) { compare(b, driver, byHand, byHand) })
	}
}

func compare(b *testing.B, driver string, one, other func(ctx context.Context, db *sql.DB) error) {
	db := sqltest.Open(b, driver, pgtest.Shared(b).NewDB(b))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	timed := func(call func(ctx context.Context, db *sql.DB) error) time.Duration {
		begun := time.Now()
		if err := call(ctx, db); err != nil {
			b.Fatal(err)
		}
		return time.Since(begun)
	}
	for range 100 {
		timed(one)
		timed(other)
	}
	ones, others := make([]time.Duration, b.N), make([]time.Duration, b.N)
	b.ResetTimer()
	for i := range b.N {
		if i%2 == 0 {
			ones[i], others[i] = timed(one), timed(other)
		} else {
			others[i], ones[i] = timed(other), timed(one)
		}
	}
	b.StopTimer()
	a, z := median(ones), median(others)
	b.ReportMetric(0, "ns/op") // of both together it would mislead
	b.ReportMetric(float64(a.Nanoseconds()), "ns/guarded")
	b.ReportMetric(float64(z.Nanoseconds()), "ns/byhand")
	b.ReportMetric(float64(a)/float64(z), "ratio")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
