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
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/replica"
	"github.com/bootlock/bootlock/test/sqltest"
)

// soon is when a holder whose session has ended must know of it: about a second, and
// more on a busy machine. With heartbeats every third of the default TTL it was ten.
const soon = 5 * time.Second

// The session of a holder may end for other reasons than silence, and the next holder
// has the lock at once then. Until the old one is told there are two.
func TestHolderIsToldSoon(t *testing.T) {
	files := replica.NewFiles(t)
	for name, way := range map[string]func(t *testing.T) (dsn string, end func()){
		"terminated": func(t *testing.T) (string, func()) {
			db := newTestDB(t, pgtest.Shared(t))
			return db.dsn, func() { db.terminate(t, leaseKey) }
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
				holder := pool(t, driver, dsn)
				held := make(chan struct{})
				told := make(chan time.Time, 1)
				returned := await.Go(func() error {
					return advisorylock.Hold(t.Context(), holder, leaseKey, func(ctx context.Context) error {
						close(held)
						<-ctx.Done()
						told <- time.Now()
						return nil
					})
				})
				await.Value(t, held)
				end()
				ended := time.Now()
				after := await.Value(t, told).Sub(ended)
				t.Logf("told %v after the end of its session", after)
				if after > soon {
					t.Errorf("told %v after the end of its session; want about a second", after)
				}
				if err := await.Value(t, returned); !errors.Is(err, advisorylock.ErrLost) {
					t.Errorf("got %v; want ErrLost", err)
				}
			})
		})
	}
}

// A transaction that idles for two seconds is ended by such a pooler. The heartbeats
// come in time to keep it, so that there is one holder throughout.
func TestHoldBehindIdleTransactionTimeout(t *testing.T) {
	eachDriver(t, func(t *testing.T, driver string) {
		db := newTestDB(t, pgtest.Shared(t))
		bouncer := pgbouncer.New(t, pgtest.Shared(t), "transaction", 4, "idle_transaction_timeout = 2")
		holder, other := pool(t, driver, bouncer.DSN(db.dsn)), pool(t, driver, db.dsn)
		err := advisorylock.Hold(t.Context(), holder, leaseKey, func(ctx context.Context) error {
			for end := time.After(5 * time.Second); ; {
				wantTaken(t, other, leaseKey)
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-end:
					return nil
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
		if err != nil {
			t.Errorf("got %v; want the lock kept by its heartbeats", err)
		}
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
				late := pool(t, driver, network.dsn)
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
