//go:build unix

package bench

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/bench/stats"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

func inHold(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func()) error {
	return advisorylock.Hold(ctx, db, key, func(context.Context) error { fn(); return nil })
}

func blocking(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func()) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after the commit there is nothing to roll back
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", key)); err != nil {
		return err
	}
	fn()
	return tx.Commit()
}

func reportQuantiles(b *testing.B, samples []time.Duration) {
	b.ReportMetric(0, "ns/op") // is the length of the holds
	if len(samples) == 0 {
		return
	}
	q := stats.Of(samples)
	b.ReportMetric(q.P50, "p50-ms")
	if q.N >= 100 {
		b.ReportMetric(q.P99, "p99-ms")
	} else {
		b.ReportMetric(q.Worst, "max-ms")
	}
}

// BenchmarkTail measures the time from the end of the one migrate to the moment
// that the last of N others is ready, who all go on at once (UpToDate) or one by
// one (Serialize alone).
func BenchmarkTail(b *testing.B) {
	for _, n := range []int{8, 32, 90} {
		for _, driver := range drivers {
			b.Run(fmt.Sprintf("others=%d/UpToDate/%s", n, driver), func(b *testing.B) {
				benchmarkTail(b, driver, n, schemaguard.Guard{UpToDate: isMigrated})
			})
			b.Run(fmt.Sprintf("others=%d/turns/%s", n, driver), func(b *testing.B) {
				benchmarkTail(b, driver, n, schemaguard.Guard{Serialize: true})
			})
		}
	}
}

func benchmarkTail(b *testing.B, driver string, n int, guard schemaguard.Guard) {
	dsn := pgtest.Shared(b).NewDB(b)
	var pools []*sql.DB
	for range n + 1 {
		pools = append(pools, warm(b, driver, dsn, 2))
	}
	var samples []time.Duration
	for range b.N {
		samples = append(samples, tail(b, pools, guard))
	}
	reportQuantiles(b, samples)
}

const schema = "tail"

// tail has the first of pools migrate while the others wait, and returns how long
// after its end all were ready.
func tail(b *testing.B, pools []*sql.DB, guard schemaguard.Guard) time.Duration {
	sqltest.Exec(b, pools[0], "DROP SCHEMA IF EXISTS tail CASCADE")
	inside, finish := make(chan struct{}), make(chan struct{})
	var done time.Time
	var wg sync.WaitGroup
	ensure := func(db *sql.DB, migrate func(ctx context.Context, db *sql.DB) error) {
		if err := guard.Ensure(b.Context(), db, schema, migrate); err != nil {
			b.Error(err)
		}
	}
	// Who waits has begun with the lock to migrate under, and is not done with it.
	var waiting atomic.Int64
	count := func(e locktrace.Event, n int64) {
		if e.Step == locktrace.Lock && e.For == locktrace.Migrate {
			waiting.Add(n)
		}
	}
	guard.Trace = &locktrace.Trace{
		Start: func(ctx context.Context, e locktrace.Event) context.Context { count(e, 1); return ctx },
		Done:  func(_ context.Context, e locktrace.Event) { count(e, -1) },
	}
	wg.Go(func() {
		ensure(pools[0], func(ctx context.Context, db *sql.DB) error {
			close(inside)
			<-finish
			_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS tail.version AS SELECT 1 AS version")
			done = time.Now()
			return err
		})
	})
	<-inside
	for _, db := range pools[1:] {
		wg.Go(func() {
			ensure(db, func(ctx context.Context, db *sql.DB) error {
				migrated, err := isMigrated(ctx, db)
				if err == nil && !migrated {
					b.Error("the winner is not done, and another one is inside")
				}
				return err
			})
		})
	}
	await.True(b, "all to wait", func() bool { return waiting.Load() == int64(len(pools)-1) })
	close(finish)
	wg.Wait()
	return time.Since(done)
}

func isMigrated(ctx context.Context, db *sql.DB) (migrated bool, err error) {
	err = db.QueryRowContext(ctx, "SELECT to_regclass('tail.version') IS NOT NULL").Scan(&migrated)
	return migrated, err
}

// BenchmarkHeartbeat measures the statement that keeps a lease, which goes out
// every third of the TTL, and for comparison the whole of a Hold.
func BenchmarkHeartbeat(b *testing.B) {
	for _, driver := range drivers {
		db := warm(b, driver, pgtest.Shared(b).NewDB(b), 2)
		b.Run("beat/"+driver, func(b *testing.B) {
			tx := sqltest.Begin(b, db)
			for b.Loop() {
				if _, err := tx.ExecContext(b.Context(), "SELECT 1"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("Hold/"+driver, func(b *testing.B) {
			for b.Loop() {
				if err := advisorylock.Hold(b.Context(), db, 1, func(context.Context) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// warm is a pool that has opened its connections.
func warm(b *testing.B, driver, dsn string, conns int) *sql.DB {
	b.Helper()
	db := sqltest.Open(b, driver, dsn)
	db.SetMaxIdleConns(conns)
	for range conns {
		conn, err := db.Conn(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
	}
	return db
}
