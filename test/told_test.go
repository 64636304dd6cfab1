//go:build unix

package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/replica"
	"github.com/bootlock/bootlock/test/sqltest"
)

// The session of a holder may end for other reasons than silence, and the next holder
// has the lock at once then. Until the old one is told there are two. Here the lease is
// so long that neither its deadline nor a heartbeat every third of it tells.
func TestHolderIsToldSoon(t *testing.T) {
	t.Parallel()
	files := replica.NewFiles(t)
	for name, way := range map[string]func(t *testing.T) (dsn string, end func()){
		"terminated": func(t *testing.T) (string, func()) {
			db := newTestDB(t, pgtest.Shared(t))
			return db.dsn, func() { locktest.Terminate(t, db.admin, leaseKey) }
		},
		"connection reset": func(t *testing.T) (string, func()) {
			network := newNetwork(t, newTestDB(t, pgtest.Shared(t)).dsn)
			return network.dsn, network.Reset
		},
		"server restarted": func(t *testing.T) (string, func()) {
			server, _ := files.Start(t)
			return server.DSN(), func() {
				server.End(t, syscall.SIGQUIT)
				server.StartAgain(t)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				dsn, end := way(t)
				holder := locktest.Pool(t, driver, dsn)
				held := make(chan struct{})
				returned := holdInBackground(t, time.Hour, holder, leaseKey, func(ctx context.Context) error {
					close(held)
					<-ctx.Done()
					return nil
				})
				await.Value(t, held)
				end()
				ended := time.Now()
				told := await.Value(t, returned)
				t.Logf("told %v after the end of its session", told.at.Sub(ended))
				if !errors.Is(told.err, advisorylock.ErrLost) {
					t.Errorf("got %v; want ErrLost", told.err)
				}
			})
		})
	}
}

// A pooler may end a transaction that idles. The heartbeats come in time to keep it.
func TestHoldBehindIdleTransactionTimeout(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		t.Parallel()
		db := newTestDB(t, pgtest.Shared(t))
		locktest.Outlives(t, leaseKey, 2*time.Second, func(limit time.Duration) (advisorylock.Locker, *sql.DB) {
			bouncer := pgbouncer.New(t, pgtest.Shared(t), "transaction", 4, fmt.Sprintf("idle_transaction_timeout = %d", limit/time.Second))
			return advisorylock.Locker{}, locktest.Pool(t, driver, bouncer.DSN(db.dsn))
		})
		db.holdsNoLock(t)
	})
}

// The answer that grants the lock may come long after the grant: the network was
// silent and heals. By then the server may have ended the session for silence, and
// somebody else has the lock.
func TestLateGrantIsNone(t *testing.T) {
	t.Parallel()
	type call func(ctx context.Context, l advisorylock.Locker, db *sql.DB, fn func()) error
	for name, tt := range map[string]struct {
		call call
		try  bool
	}{
		"Hold": {func(ctx context.Context, l advisorylock.Locker, db *sql.DB, fn func()) error {
			return l.Hold(ctx, db, leaseKey, func(context.Context) error { fn(); return nil })
		}, false},
		"TryHold": {func(ctx context.Context, l advisorylock.Locker, db *sql.DB, fn func()) error {
			return l.TryHold(ctx, db, leaseKey, func(context.Context) error { fn(); return nil })
		}, true},
		"WithXactLock": {func(ctx context.Context, l advisorylock.Locker, db *sql.DB, fn func()) error {
			return l.WithXactLock(ctx, db, leaseKey, func(context.Context, *sql.Tx) error { fn(); return nil })
		}, false},
		"TryWithXactLock": {func(ctx context.Context, l advisorylock.Locker, db *sql.DB, fn func()) error {
			return l.TryWithXactLock(ctx, db, leaseKey, func(context.Context, *sql.Tx) error { fn(); return nil })
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				db := newTestDB(t, pgtest.Shared(t))
				network := newNetwork(t, db.dsn)
				late := locktest.Pool(t, driver, network.dsn)
				if err := late.PingContext(t.Context()); err != nil {
					t.Fatal(err)
				}
				locker := advisorylock.Locker{TTL: time.Second, Trace: &locktrace.Trace{
					Start: func(ctx context.Context, e locktrace.Event) context.Context {
						if e.Step == locktrace.Lock {
							network.Silence(relay.Deaf)
						}
						return ctx
					},
				}}
				entered := make(chan struct{}, 1)
				returned := await.Go(func() error {
					return tt.call(t.Context(), locker, late, func() { entered <- struct{}{} })
				})
				// The server grants the lock, hears nothing more, and ends the session.
				await.True(t, "the grant", func() bool { return sqltest.Ask[int](t, db.admin, advisoryLocks+" AND l.granted") > 0 })
				next := occupyWhenFree(t, db)
				network.Speak()
				if tt.try {
					// It may have asked once more, and heard of the end of its session.
					if err := await.Value(t, returned); !errors.Is(err, advisorylock.ErrLost) && !sqlstate.Lost(err) {
						t.Errorf("got %v; want ErrLost", err)
					}
				} else {
					await.Until(t, "the call to go on waiting", func() error {
						select {
						case <-entered:
							t.Fatal("got the function called while somebody else had the lock")
						default:
						}
						if sqltest.Ask[int](t, db.admin, advisoryLocks+" AND NOT l.granted") == 0 {
							return errors.New("it does not")
						}
						return nil
					})
				}
				sqltest.Commit(t, next)
				if !tt.try {
					if err := await.Value(t, returned); err != nil {
						t.Errorf("got %v; want the lock, now that it is free", err)
					}
					await.Value(t, entered)
				}
				if len(entered) > 0 {
					t.Error("got the function called; want it left out")
				}
				db.holdsNoLock(t)
			})
		})
	}
}

// occupyWhenFree takes leaseKey by hand when its holder is gone.
func occupyWhenFree(t *testing.T, db testDB) *sql.Tx {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	defer cancel()
	tx := sqltest.Begin(t, sqltest.Open(t, "pgx", db.dsn))
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", leaseKey)); err != nil {
		t.Fatal(err)
	}
	return tx
}
