package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A holder may be a victim itself: of a session that has locked a table, and has no
// advisory lock at all. Ending the holder would not help.
func TestWaiterIsToldWhatTheHolderWaitsFor(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t).NewDB(t)
	admin := sqltest.Open(t, "pgx", dsn)
	sqltest.Exec(t, admin, "CREATE TABLE t ()")
	eachDriver(t, func(t *testing.T, driver string) {
		key := advisorylock.KeyOf(t.Name())
		third := sqltest.Begin(t, admin)
		sqltest.Exec(t, third, "LOCK TABLE t")
		pid := fmt.Sprint(sqltest.Ask[int](t, third, "SELECT pg_backend_pid()"))
		holder := sqltest.Open(t, driver, dsn)
		done := await.Go(func() error {
			return advisorylock.WithXactLock(t.Context(), holder, key, func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "LOCK TABLE t")
				return err
			})
		})
		await.True(t, "the holder to wait", func() bool {
			return sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass") == 1
		})

		waiter := sqltest.Open(t, driver, dsn)
		told := make(chan struct{}, 1)
		locker := advisorylock.Locker{Trace: &locktrace.Trace{Waiting: func(_ context.Context, w locktrace.Wait) {
			if len(w.Holders) != 1 || w.Holders[0].BlockedBy != pid {
				t.Errorf("got a wait for %+v; want one holder that waits for %s", w.Holders, pid)
			}
			told <- struct{}{}
		}}}
		err := locktest.EndWait(t.Context(), nil, told, func(ctx context.Context) error { return locker.Hold(ctx, waiter, key, locktest.None) })
		var wait *advisorylock.WaitError
		if !errors.As(err, &wait) || len(wait.Holders) != 1 || wait.Holders[0].BlockedBy != pid ||
			!strings.Contains(err.Error(), "itself waiting for pid "+pid) {
			t.Errorf("got %v; want it to say that the holder waits for pid %s", err, pid)
		}
		sqltest.Commit(t, third)
		await.NoError(t, "the holder", done)
	})
}

// The session that keeps a lease only idles, and so waits for nobody.
func TestSessionOfALeaseWaitsForNobody(t *testing.T) {
	t.Parallel()
	db := sqltest.Open(t, "pgx", pgtest.Shared(t).NewDB(t))
	sqltest.Exec(t, db, "CREATE TABLE t ()")
	third := sqltest.Begin(t, db)
	sqltest.Exec(t, third, "LOCK TABLE t")
	err := advisorylock.Hold(t.Context(), db, 42, func(ctx context.Context) error {
		short, cancel := context.WithCancel(ctx)
		defer cancel()
		stuck := await.Go(func() error {
			_, err := db.ExecContext(short, "INSERT INTO t DEFAULT VALUES")
			return err
		})
		await.True(t, "the work to wait", func() bool {
			return sqltest.Ask[int](t, db, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass") == 1
		})
		sessions, err := advisorylock.Sessions(ctx, db, 42)
		if len(sessions) != 1 || sessions[0].BlockedBy != "" {
			t.Errorf("got %+v; want a holder that waits for nobody", sessions)
		}
		cancel()
		_ = await.Value(t, stuck) // it was cancelled
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
