//go:build unix

package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/replica"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A session that waits in the server keeps a snapshot. One whose statement only its
// client's cancel would end stays in the queue when the client is killed, or when a
// proxy drops the cancel, and the holder's CREATE INDEX CONCURRENTLY waits for it,
// and it for the holder. One that is frozen goes on for as long as it likes, unless
// the server ends its transaction.
func TestIndexBesideAWaiterThatIsGone(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(t *testing.T, db testDB, driver, op string) (leave func()){
		"killed": func(t *testing.T, db testDB, driver, op string) func() {
			p := start(t, "wait in", "DSN="+db.dsn, "DRIVER="+driver, "OP="+op)
			return func() { p.signal(t, syscall.SIGKILL) }
		},
		"frozen": func(t *testing.T, db testDB, driver, op string) func() {
			p := start(t, "wait in", "DSN="+db.dsn, "DRIVER="+driver, "OP="+op)
			return func() { p.signal(t, syscall.SIGSTOP) }
		},
		"behind a proxy that drops cancels": func(t *testing.T, db testDB, driver, op string) func() {
			network := newNetwork(t, db.dsn)
			network.DropCancels()
			ctx, cancel := context.WithCancel(t.Context())
			waiter := locktest.Pool(t, driver, network.dsn)
			returned := await.Go(func() error { return locktest.Waits[op](ctx, advisorylock.Locker{}, waiter, leaseKey) })
			return func() {
				cancel()
				if err := await.Value(t, returned); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v; want context.Canceled", err)
				}
			}
		},
	} {
		for op, driver := range map[string]string{"WithXactLock": "postgres", "Hold": "pgx"} {
			t.Run(name+"/"+op, func(t *testing.T) {
				t.Parallel()
				db := newTestDB(t, pgtest.Shared(t))
				sqltest.Exec(t, db.admin, "CREATE TABLE t (id int)")
				holder := locktest.Pool(t, otherThan(driver), db.dsn)
				ctx, cancel := context.WithTimeout(t.Context(), await.Limit/2)
				defer cancel()
				err := advisorylock.Hold(ctx, holder, leaseKey, func(ctx context.Context) error {
					leave := wait(t, db, driver, op)
					sqltest.AwaitWaiters(t, db.admin, leaseKey, 1)
					leave()
					_, err := holder.ExecContext(ctx, "CREATE INDEX CONCURRENTLY ON t (id)")
					return err
				})
				if err != nil {
					t.Errorf("got %v; want the index", err)
				}
				db.holdsNoLock(t)
			})
		}
	}
}

func init() { children["wait in"] = waitInOp }

// waitInOp waits for leaseKey in OP.
func waitInOp(db *sql.DB) error {
	return locktest.Waits[os.Getenv("OP")](context.Background(), advisorylock.Locker{}, db, leaseKey)
}

// A server that restarts, or a failover, ends every session and refuses new ones for a
// while, by 57P03 or by refusing to connect. For a waiter that is no failure.
func TestWaitOutlivesItsServer(t *testing.T) {
	t.Parallel()
	files := replica.NewFiles(t)
	for name, signal := range map[string]syscall.Signal{"fast": syscall.SIGINT, "immediate": syscall.SIGQUIT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, _ := files.Start(t)
			holder := sqltest.Occupy(t, server.DSN(), leaseKey)
			waiting := map[string]<-chan error{}
			locker, lasting := locktest.Lasting(advisorylock.Locker{})
			for op, wait := range locktest.Waits {
				for _, driver := range drivers {
					db := sqltest.Open(t, driver, server.DSN())
					waiting[op+" "+driver] = await.Go(func() error { return wait(t.Context(), locker, db, leaseKey) })
				}
			}
			guard := schemaguard.Guard{Once: "build 1", Trace: locker.Trace}
			for _, driver := range drivers {
				db := sqltest.Open(t, driver, server.DSN())
				waiting["Await "+driver] = await.Go(func() error { return guard.Await(t.Context(), db, "app") })
			}
			for range waiting {
				await.Value(t, lasting)
			}
			server.End(t, signal)
			_ = holder.Rollback()
			server.StartAgain(t)
			guard.Trace = nil
			if err := guard.Ensure(t.Context(), sqltest.Open(t, "pgx", server.DSN()), "app", func(context.Context, *sql.DB) error { return nil }); err != nil {
				t.Error(err)
			}
			for what, returned := range waiting {
				await.NoError(t, what, returned)
			}
		})
	}
}

// A connection string may name a primary and its standby. While the primary restarts, a
// waiter is led to the standby, which grants what excludes nobody: two had the lock.
func TestWaitIsForThePrimary(t *testing.T) {
	t.Parallel()
	files := replica.NewFiles(t)
	for op, wait := range locktest.Waits {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			primary, standby := files.Start(t)
			both := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable application_name=waiter", primary.Port, standby.Port)
			holder := sqltest.Occupy(t, primary.DSN(), leaseKey)
			locker, lasting := locktest.Lasting(advisorylock.Locker{})
			waiting := map[string]<-chan error{}
			for _, driver := range drivers {
				db := sqltest.Open(t, driver, both)
				waiting[driver] = await.Go(func() error { return wait(t.Context(), locker, db, leaseKey) })
			}
			for range waiting {
				await.Value(t, lasting)
			}
			primary.End(t, syscall.SIGQUIT)
			_ = holder.Rollback()
			here := sqltest.Open(t, "pgx", standby.DSN())
			seen := map[int]bool{}
			await.True(t, "ten tries on the standby", func() bool {
				var pid int
				_ = here.QueryRowContext(t.Context(), "SELECT pid FROM pg_stat_activity WHERE application_name = 'waiter'").Scan(&pid)
				seen[pid] = pid != 0
				for driver, returned := range waiting {
					select {
					case err := <-returned:
						t.Fatalf("%s: got %v while there was but a standby; want it to wait", driver, err)
					default:
					}
				}
				return len(seen) > 10
			})
			primary.StartAgain(t)
			for driver, returned := range waiting {
				await.NoError(t, driver, returned)
			}
		})
	}
}

// With round trips of 120 ms BEGIN alone takes longer than the first burst did: nobody
// was told of the wait.
func TestLongRoundTrips(t *testing.T) {
	t.Parallel()
	for op, wait := range locktest.Waits {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t, pgtest.Shared(t))
			far := newTapped(t, db.dsn, func() relay.Tap {
				return func([]byte, bool) { time.Sleep(60 * time.Millisecond) }
			})
			holder := sqltest.Occupy(t, db.dsn, leaseKey)
			locker, lasting := locktest.Lasting(advisorylock.Locker{})
			var waiting []<-chan error
			for i := range 8 {
				waiter := locktest.Pool(t, drivers[i%len(drivers)], far.dsn)
				waiting = append(waiting, await.Go(func() error { return wait(t.Context(), locker, waiter, leaseKey) }))
			}
			for range waiting {
				await.Value(t, lasting)
			}
			sqltest.Commit(t, holder)
			for _, returned := range waiting {
				await.NoError(t, "a waiter", returned)
			}
		})
	}
}

// A prepared transaction keeps its locks, but has no session that could be ended.
func TestPreparedTransactionIsNamed(t *testing.T) {
	t.Parallel()
	server := ownServer(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "10"}})
	eachDriver(t, func(t *testing.T, driver string) {
		for what, prepare := range map[string]func(db *sql.DB, tx *sql.Tx) error{
			"has the key": func(_ *sql.DB, tx *sql.Tx) error {
				_, err := tx.ExecContext(t.Context(), fmt.Sprintf("SELECT pg_advisory_xact_lock(%d); PREPARE TRANSACTION 'x'", leaseKey))
				return err
			},
			"is fenced": func(db *sql.DB, tx *sql.Tx) error {
				return advisorylock.Hold(t.Context(), db, leaseKey, func(ctx context.Context) error {
					if err := advisorylock.Fence(ctx, tx); err != nil {
						return err
					}
					_, err := tx.ExecContext(ctx, "PREPARE TRANSACTION 'x'")
					return err
				})
			},
		} {
			t.Run(what, func(t *testing.T) {
				db := newTestDB(t, server)
				first := sqltest.Open(t, "pgx", db.dsn)
				if err := prepare(first, sqltest.Begin(t, first)); err != nil {
					t.Fatal(err)
				}
				if _, err := advisorylock.Sessions(t.Context(), locktest.Pool(t, driver, db.dsn), leaseKey); err != nil {
					t.Errorf("Sessions: %v", err)
				}
				waiter := locktest.Pool(t, driver, db.dsn)
				begins, begun := locktest.Beginning()
				err := locktest.EndWait(t.Context(), nil, begun, func(ctx context.Context) error { return begins.Hold(ctx, waiter, leaseKey, locktest.None) })
				if err == nil || !strings.Contains(err.Error(), "prepared transaction") {
					t.Errorf("got %v; want the prepared transaction named", err)
				}
				locker, lasting := locktest.Lasting(advisorylock.Locker{})
				granted := await.Go(func() error { return locktest.Waits["Hold"](t.Context(), locker, waiter, leaseKey) })
				if w := await.Value(t, lasting); len(w.Holders) != 1 || w.Holders[0].State != "prepared transaction" {
					t.Errorf("got %+v of the wait; want the prepared transaction named", w)
				}
				sqltest.Exec(t, db.admin, "COMMIT PREPARED 'x'")
				await.NoError(t, "the waiter", granted)
			})
		}
	})
}

// A role may not use plpgsql, in which a waiter stands in the server's queue, or may not
// read the catalogs that say who has a lock. It gets its locks all the same.
func TestWithoutRights(t *testing.T) {
	t.Parallel()
	for name, revoke := range map[string]struct{ driver, statement, probe string }{
		"plpgsql":            {"pgx", "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC", "DO $$ BEGIN END $$"},
		"plpgsql dropped":    {"postgres", "DROP EXTENSION plpgsql", "DO $$ BEGIN END $$"},
		"pg_database":        {"pgx", "REVOKE SELECT ON pg_database FROM PUBLIC", "SELECT FROM pg_database"},
		"pg_roles":           {"postgres", "REVOKE SELECT ON pg_roles FROM PUBLIC", "SELECT FROM pg_roles"},
		"views":              {"pgx", "REVOKE SELECT ON pg_locks, pg_stat_activity FROM PUBLIC", "SELECT FROM pg_locks"},
		"pg_stat_activity()": {"postgres", "REVOKE EXECUTE ON FUNCTION pg_stat_get_activity(int) FROM PUBLIC", "SELECT FROM pg_stat_get_activity(NULL)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			role := pgtest.Shared(t).NewRole(t)
			db := newTestDB(t, pgtest.Shared(t))
			sqltest.Exec(t, db.admin, revoke.statement)
			sqltest.Exec(t, db.admin, "GRANT CREATE ON DATABASE "+db.name(t)+" TO "+quoted(role))
			dsn := pgtest.WithUser(db.dsn, role, pgtest.RolePassword)
			if _, err := sqltest.Open(t, revoke.driver, dsn).ExecContext(t.Context(), revoke.probe); sqlstate.Of(err) != "42501" && sqlstate.Of(err) != "42704" {
				t.Fatalf("%s: got %v; want 42501 or 42704, or this test proves nothing", revoke.probe, err)
			}
			t.Run("calls", func(t *testing.T) { callsWithoutRights(t, db, revoke.driver, dsn) })
			for _, mode := range []string{"Serialize", "UpToDate", "Once"} {
				fleet := starters{n: 4, dsn: dsn, schema: strings.ToLower(mode), mode: mode}
				fleet.start(t)
			}
			db.holdsNoLock(t)
		})
	}
}

func callsWithoutRights(t *testing.T, db testDB, driver, dsn string) {
	for op, wait := range locktest.Waits {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			key := advisorylock.KeyOf(t.Name())
			holder := sqltest.Occupy(t, db.dsn, key)
			limited := locktest.Pool(t, driver, dsn)
			locker, lasting := locktest.Lasting(advisorylock.Locker{})
			returned := await.Go(func() error { return wait(t.Context(), locker, limited, key) })
			locktest.AwaitReport(t, lasting, returned)
			if err := advisorylock.TryHold(t.Context(), locktest.Pool(t, driver, dsn), key, locktest.None); !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("TryHold: got %v; want ErrNotAcquired", err)
			}
			sqltest.Commit(t, holder)
			await.NoError(t, "the waiter", returned)
			err := advisorylock.TryHold(t.Context(), limited, key, func(context.Context) error {
				return advisorylock.TryWithXactLock(t.Context(), locktest.Pool(t, driver, dsn), key, locktest.Nothing)
			})
			if !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("TryHold on a free lock, and a try beside it: got %v; want ErrNotAcquired", err)
			}
		})
	}
}

// What the user has set to bound statements, or transactions, ends no wait and no lease.
func TestLimitsOfTheUser(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]string{
		"statement_timeout": "300ms", "lock_timeout": "300ms", "transaction_timeout": "700ms", "idle_in_transaction_session_timeout": "700ms",
	} {
		t.Run(name, func(t *testing.T) {
			server := pgtest.Shared(t)
			if sqltest.Ask[int](t, sqltest.Open(t, "pgx", server.DSN), "SELECT count(*) FROM pg_settings WHERE name = $1", name) == 0 {
				t.Skipf("not tested: PostgreSQL %s has no %s", server.Version, name)
			}
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				db := newTestDB(t, server)
				dsn := pgtest.WithParams(db.dsn, name, limit)
				holder := sqltest.Occupy(t, db.dsn, leaseKey)
				for op, wait := range map[string]func(l advisorylock.Locker, db *sql.DB) error{
					"WithXactLock": func(l advisorylock.Locker, db *sql.DB) error {
						return l.WithXactLock(t.Context(), db, leaseKey, locktest.Nothing)
					},
					"Hold, for longer than any limit": func(l advisorylock.Locker, db *sql.DB) error {
						return locktest.HoldFor(t.Context(), l, db, leaseKey, 1500*time.Millisecond)
					},
				} {
					locker, lasting := locktest.Lasting(advisorylock.Locker{})
					waiter := locktest.Pool(t, driver, dsn)
					returned := await.Go(func() error { return wait(locker, waiter) })
					locktest.AwaitReport(t, lasting, returned)
					defer func() {
						await.NoError(t, op, returned)
					}()
				}
				sqltest.Commit(t, holder)
			})
		})
	}
}
