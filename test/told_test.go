//go:build unix

package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/sqltest"
)

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
	for name, wait := range locktest.Waits {
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
				returned := await.Go(func() error { return wait(t.Context(), locker, late, leaseKey) })
				// The server grants the lock, hears nothing more, and ends the session.
				await.True(t, "the grant", func() bool { return sqltest.Ask[int](t, db.admin, advisoryLocks+" AND l.granted") > 0 })
				next := sqltest.Occupy(t, db.dsn, leaseKey) // when it is free
				network.Speak()
				await.Until(t, "the call to go on waiting", func() error {
					select {
					case err := <-returned:
						t.Fatalf("got %v while somebody else had the lock; want it to wait", err)
					default:
					}
					if sqltest.Ask[int](t, db.admin, advisoryLocks+" AND NOT l.granted") == 0 {
						return errors.New("it does not")
					}
					return nil
				})
				sqltest.Commit(t, next)
				await.NoError(t, "the wait for a lock that is free now", returned)
				db.holdsNoLock(t)
			})
		})
	}
}
