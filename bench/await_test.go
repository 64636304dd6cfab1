package bench

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// BenchmarkAwait measures the time from the end of migrate, before its lock is
// given back, to the moment that the last of N processes in Guard.Await is on its
// way.
func BenchmarkAwait(b *testing.B) {
	for _, n := range []int{20, 200} {
		for _, driver := range drivers {
			b.Run(fmt.Sprintf("workers=%d/%s", n, driver), func(b *testing.B) {
				dsn := pgtest.Shared(b).NewDB(b)
				migrator := warm(b, driver, dsn, 3)
				var workers []*sql.DB
				for range n {
					workers = append(workers, warm(b, driver, dsn, 1))
				}
				var samples []time.Duration
				for range b.N {
					samples = append(samples, awaited(b, migrator, workers))
				}
				reportQuantiles(b, samples)
			})
		}
	}
}

func awaited(b *testing.B, migrator *sql.DB, workers []*sql.DB) time.Duration {
	sqltest.Exec(b, migrator, "DROP SCHEMA IF EXISTS tail CASCADE")
	guard := schemaguard.Guard{UpToDate: isMigrated}
	var done time.Time
	var ended sync.WaitGroup
	err := guard.Ensure(b.Context(), migrator, schema, func(ctx context.Context, db *sql.DB) error {
		for _, worker := range workers {
			ended.Go(func() {
				if err := guard.Await(b.Context(), worker, schema); err != nil {
					b.Error(err)
				}
			})
		}
		key := int64(schemaguard.MigrateKey(schemaguard.KeyFor(schema)))
		await.True(b, "most workers to wait at the same time", func() bool { // some are between two bursts
			return sqltest.Ask[int](b, db, `SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND objsubid = 1
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
				AND ((classid::bigint << 32) | objid::bigint) = $1`, key) >= len(workers)*9/10
		})
		_, err := db.ExecContext(ctx, "CREATE TABLE tail.version AS SELECT 1 AS version")
		done = time.Now()
		return err
	})
	if err != nil {
		b.Error(err)
	}
	ended.Wait()
	return time.Since(done)
}
