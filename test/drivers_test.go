package test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
)

// database/sql sees no limit on a pgxpool behind it, so that none of the rules for
// pools applies: N locks may take its N connections, and their callbacks, or the next
// lock, wait for one until ctx ends. Whoever reads the error must learn what to do.
func TestPgxpool(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T) *sql.DB {
		pool, err := pgxpool.New(t.Context(), pgtest.WithParams(newTestDB(t, pgtest.Shared(t)).dsn, "pool_max_conns", "1"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		db := stdlib.OpenDBFromPool(pool)
		t.Cleanup(func() { db.Close() })
		return db
	}
	t.Run("a lock that finds no connection", func(t *testing.T) {
		db := open(t)
		err := advisorylock.WithXactLock(t.Context(), db, leaseKey, func(ctx context.Context, _ *sql.Tx) error {
			ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			return advisorylock.WithXactLock(ctx, db, leaseKey+1, locktest.Nothing)
		})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "SetMaxOpenConns") {
			t.Errorf("got %v; want context.DeadlineExceeded, and the advice to call SetMaxOpenConns", err)
		}
	})
	t.Run("a migrate that finds no connection", func(t *testing.T) {
		db := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		guard := schemaguard.Guard{Serialize: true, Trace: &locktrace.Trace{Waiting: func(context.Context, locktrace.Wait) { cancel() }}}
		err := guard.Ensure(ctx, db, "app", func(ctx context.Context, db *sql.DB) error { return db.PingContext(ctx) })
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "SetMaxOpenConns") {
			t.Errorf("got %v; want context.Canceled, and the advice to call SetMaxOpenConns", err)
		}
	})
}
