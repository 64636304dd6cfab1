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
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/replica"
	"github.com/bootlock/bootlock/test/sqltest"
)

// waitFor are the calls that wait for a key.
var waitFor = map[string]func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error{
	"WithXactLock": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
		return l.WithXactLock(ctx, db, key, noTx)
	},
	"Hold": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
		return l.Hold(ctx, db, key, func(context.Context) error { return nil })
	},
}

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
			waiter := pool(t, driver, network.dsn)
			returned := await.Go(func() error { return waitFor[op](ctx, advisorylock.Locker{}, waiter, leaseKey) })
			return func() {
				cancel()
				if err := await.Value(t, returned); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v; want context.Canceled", err)
				}
			}
		},
	} {
		for op := range waitFor {
			t.Run(name+"/"+op, func(t *testing.T) {
				eachDriver(t, func(t *testing.T, driver string) {
					db := newTestDB(t, pgtest.Shared(t))
					sqltest.Exec(t, db.admin, "CREATE TABLE t (id int)")
					holder := pool(t, otherThan(driver), db.dsn)
					ctx, cancel := context.WithTimeout(t.Context(), tooLong)
					defer cancel()
					err := advisorylock.Hold(ctx, holder, leaseKey, func(ctx context.Context) error {
						leave := wait(t, db, driver, op)
						db.awaitWaiters(t, 1)
						leave()
						began := time.Now()
						_, err := holder.ExecContext(ctx, "CREATE INDEX CONCURRENTLY ON t (id)")
						t.Logf("the index took %v", time.Since(began))
						return err
					})
					if err != nil {
						t.Errorf("got %v; want the index", err)
					}
					db.holdsNoLock(t)
				})
			})
		}
	}
}

func init() { children["wait in"] = waitInOp }

// waitInOp waits for leaseKey in OP.
func waitInOp() error {
	db, err := sql.Open(os.Getenv("DRIVER"), os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer db.Close()
	return waitFor[os.Getenv("OP")](context.Background(), advisorylock.Locker{}, db, leaseKey)
}

// Whoever waits has taken nothing yet that could be lost with its session, so the
// wait goes on, with another one. An administrator who cancels its statement ends one
// ask, as a timeout would.
func TestWaitOutlivesItsSession(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"pg_terminate_backend", "pg_cancel_backend"} {
		for op, wait := range waitFor {
			for _, shared := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s shared=%t", end, op, shared), func(t *testing.T) {
					eachDriver(t, func(t *testing.T, driver string) {
						t.Parallel()
						db := newTestDB(t, pgtest.Shared(t))
						holder := sqltest.Occupy(t, db.dsn, leaseKey)
						waiter := pool(t, driver, db.dsn)
						returned := await.Go(func() error {
							return wait(t.Context(), advisorylock.Locker{Shared: shared}, waiter, leaseKey)
						})
						for range 3 {
							db.endWaiter(t, end, returned)
						}
						db.awaitSomeWaiters(t)
						sqltest.Commit(t, holder)
						if err := await.Value(t, returned); err != nil {
							t.Errorf("got %v; want the lock", err)
						}
						db.holdsNoLock(t)
					})
				})
			}
		}
	}
}

// endWaiter calls the function end of the server for the session that blocks for the
// lock, as soon as there is one.
func (db testDB) endWaiter(t *testing.T, end string, returned <-chan error) {
	t.Helper()
	query := strings.Replace(advisoryLocks, "count(*)", "count("+end+"(l.pid))", 1) + " AND NOT l.granted"
	await.Until(t, "a session that waits for the lock", func() error {
		select {
		case err := <-returned:
			t.Fatalf("the wait ended while the lock was held: %v", err)
		default:
		}
		if sqltest.Ask[int](t, db.admin, query) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
}

// A server that restarts, or a failover, ends every session and refuses new ones for a
// while, by 57P03 or by refusing to connect. For who waits that is no failure.
func TestWaitOutlivesItsServer(t *testing.T) {
	t.Parallel()
	files := replica.NewFiles(t)
	for name, signal := range map[string]syscall.Signal{"fast": syscall.SIGINT, "immediate": syscall.SIGQUIT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, _ := files.Start(t)
			holder, err := sqltest.Open(t, "pgx", server.DSN()).BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			sqltest.Exec(t, holder, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", leaseKey))
			waiting := map[string]<-chan error{}
			locker, lasting := lastingWait(advisorylock.Locker{})
			for op, wait := range waitFor {
				for _, driver := range drivers {
					db := sqltest.Open(t, driver, server.DSN())
					waiting[op+" "+driver] = await.Go(func() error { return wait(t.Context(), locker, db, leaseKey) })
				}
			}
			for range waiting {
				await.Value(t, lasting)
			}
			server.End(t, signal)
			_ = holder.Rollback()
			server.StartAgain(t)
			for what, returned := range waiting {
				if err := await.Value(t, returned); err != nil {
					t.Errorf("%s: got %v; want the lock of the server that is back", what, err)
				}
			}
		})
	}
}

// plpgsql is what the long wait and the lease are made of, but a database may have
// none, and a role no right to it.
func TestWithoutPLpgSQL(t *testing.T) {
	t.Parallel()
	for name, without := range map[string]string{
		"no right to it": "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC",
		"dropped":        "DROP EXTENSION plpgsql",
	} {
		t.Run(name, func(t *testing.T) {
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				role := pgtest.Shared(t).NewRole(t)
				db := newTestDB(t, pgtest.Shared(t))
				sqltest.Exec(t, db.admin, without)
				sqltest.Exec(t, db.admin, "GRANT CREATE ON DATABASE "+quoted(sqltest.Ask[string](t, db.admin, "SELECT current_database()"))+" TO "+quoted(role))
				dsn := pgtest.WithUser(db.dsn, role, pgtest.RolePassword)
				probe := sqltest.Open(t, driver, dsn)
				if _, err := probe.ExecContext(t.Context(), "DO $$ BEGIN END $$"); sqlstate.Of(err) != "42501" && sqlstate.Of(err) != "42704" {
					t.Fatalf("a DO block: got %v; want 42501 or 42704, or this test proves nothing", err)
				}
				t.Run("calls", func(t *testing.T) { callsWithoutPLpgSQL(t, db, driver, dsn) })
				for _, mode := range startersModes {
					fleet := starters{n: 8, dsn: dsn, schema: strings.ToLower(mode), mode: mode}
					fleet.start(t)
				}
				db.holdsNoLock(t)
			})
		})
	}
}

func callsWithoutPLpgSQL(t *testing.T, db testDB, driver, dsn string) {
	calls := map[string]func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error{
		"WithXactLock": waitFor["WithXactLock"],
		"Hold":         waitFor["Hold"],
		"shared WithXactLock": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
			l.Shared = true
			return waitFor["WithXactLock"](ctx, l, db, key)
		},
		"shared Hold": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
			l.Shared = true
			return waitFor["Hold"](ctx, l, db, key)
		},
		"Serialize": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
			guard := schemaguard.Guard{Serialize: true, Key: key, Trace: l.Trace}
			return guard.Ensure(ctx, db, "serialized", func(context.Context, *sql.DB) error { return nil })
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := advisorylock.KeyOf(t.Name())
			holder := sqltest.Occupy(t, db.dsn, key, schemaguard.MigrateKey(key))
			limited := pool(t, driver, dsn)
			locker, lasting := lastingWait(advisorylock.Locker{})
			returned := await.Go(func() error { return call(t.Context(), locker, limited, key) })
			select {
			case <-lasting:
			case err := <-returned:
				t.Fatalf("the wait ended while the lock was held: %v", err)
			}
			if err := advisorylock.TryHold(t.Context(), pool(t, driver, dsn), key, func(context.Context) error { return nil }); !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("TryHold: got %v; want ErrNotAcquired", err)
			}
			sqltest.Commit(t, holder)
			if err := await.Value(t, returned); err != nil {
				t.Errorf("got %v; want the lock", err)
			}
			err := advisorylock.TryHold(t.Context(), limited, key, func(ctx context.Context) error {
				wantTaken(t, pool(t, driver, dsn), key)
				return nil
			})
			if err != nil {
				t.Errorf("TryHold on a free lock: got %v; want nil", err)
			}
		})
	}
}

// transaction_timeout, new in 17, bounds the user's transactions, and the wait of
// WithXactLock is in one of them.
func TestWaitOutlivesTransactionTimeout(t *testing.T) {
	t.Parallel()
	server := serverWithTransactionTimeout(t)
	eachDriver(t, func(t *testing.T, driver string) {
		for op, wait := range waitFor {
			t.Run(op, func(t *testing.T) {
				db := newTestDB(t, server)
				holder := sqltest.Occupy(t, db.dsn, leaseKey)
				limited := pool(t, driver, pgtest.WithParams(db.dsn, "transaction_timeout", "500ms"))
				locker, lasting := lastingWait(advisorylock.Locker{})
				returned := await.Go(func() error { return wait(t.Context(), locker, limited, leaseKey) })
				select {
				case <-lasting: // after a second
				case err := <-returned:
					t.Fatalf("the wait ended while the lock was held: %v", err)
				}
				sqltest.Commit(t, holder)
				if err := await.Value(t, returned); err != nil {
					t.Errorf("got %v; want the lock", err)
				}
				db.holdsNoLock(t)
			})
		}
	})
}

func serverWithTransactionTimeout(t *testing.T) *pgtest.Server {
	t.Helper()
	server := pgtest.Shared(t)
	if hasTransactionTimeout(t, server) {
		return server
	}
	for _, dir := range []string{os.Getenv("XDG_CACHE_HOME"), os.Getenv("HOME") + "/.cache", "/var/cache"} {
		for _, major := range []string{"17", "18"} {
			bin := dir + "/bootlock/servers/" + major + "/bin"
			if _, err := os.Stat(bin + "/postgres"); err == nil {
				return ownServer(t, pgtest.Options{BinDir: bin})
			}
		}
	}
	t.Skipf("not tested: PostgreSQL %s has no transaction_timeout; scripts/fetch-servers.sh 17 gets one that has", server.Version)
	return nil
}

func hasTransactionTimeout(t *testing.T, server *pgtest.Server) bool {
	t.Helper()
	admin := sqltest.Open(t, "pgx", server.DSN)
	return sqltest.Ask[bool](t, admin, "SELECT current_setting('transaction_timeout', true) IS NOT NULL")
}

// What the user has set to bound statements is lifted for the wait only.
func TestLimitsAreInForceAfterTheWait(t *testing.T) {
	t.Parallel()
	limits := map[string]struct{ value, statement, code string }{
		"statement_timeout":   {"300ms", "SELECT pg_sleep(30)", "57014"},
		"lock_timeout":        {"300ms", fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", leaseKey+1), "55P03"},
		"transaction_timeout": {"700ms", "SELECT pg_sleep(30)", "25P04"},
	}
	for name, limit := range limits {
		t.Run(name, func(t *testing.T) {
			server := pgtest.Shared(t)
			if name == "transaction_timeout" {
				server = serverWithTransactionTimeout(t)
			}
			eachDriver(t, func(t *testing.T, driver string) {
				db := newTestDB(t, server)
				holder := sqltest.Occupy(t, db.dsn, leaseKey)
				other := sqltest.Occupy(t, db.dsn, leaseKey+1)
				limited := pool(t, driver, pgtest.WithParams(db.dsn, name, limit.value))
				locker, lasting := lastingWait(advisorylock.Locker{})
				returned := await.Go(func() error {
					return locker.WithXactLock(t.Context(), limited, leaseKey, func(ctx context.Context, tx *sql.Tx) error {
						_, err := tx.ExecContext(ctx, limit.statement)
						return err
					})
				})
				select {
				case <-lasting:
				case err := <-returned:
					t.Fatalf("the wait ended while the lock was held: %v", err)
				}
				sqltest.Commit(t, holder)
				err := await.Value(t, returned)
				// Of a session that was ended lib/pq may say no more than that.
				if sqlstate.Of(err) != limit.code && (limit.code != "25P04" || !errors.Is(err, advisorylock.ErrLost)) {
					t.Errorf("got %v; want SQLSTATE %s", err, limit.code)
				}
				sqltest.Commit(t, other)
				db.holdsNoLock(t)
			})
		})
	}
}
