package test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A lock transaction at SERIALIZABLE works on a snapshot from before the wait:
// it does not see what the holder committed, and its own writes fail with 40001.
func TestReadCommittedWhateverTheDefault(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		sqltest.Exec(t, admin, `CREATE TABLE done (id int);
			DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$`)
		db := lockPool(t, driver, dsn)
		if got := sqltest.Ask[string](t, db, "SHOW transaction_isolation"); got != "serializable" {
			t.Fatalf("without the lock got %q; want the database's default", got)
		}

		key := advisorylock.KeyOf(t.Name())
		holder := occupy(t, dsn, key)
		var isolation string
		var rows int
		done := inBackground(func() error {
			return advisorylock.WithXactLock(t.Context(), db, key, func(ctx context.Context, tx *sql.Tx) error {
				if err := tx.QueryRowContext(ctx, "SHOW transaction_isolation").Scan(&isolation); err != nil {
					return err
				}
				return tx.QueryRowContext(ctx, "SELECT count(*) FROM done").Scan(&rows)
			})
		})
		awaitWaiters(t, admin, key, 1)
		sqltest.Exec(t, holder, "INSERT INTO done VALUES (1)")
		sqltest.Commit(t, holder)
		if err := await.Value(t, done); err != nil {
			t.Fatal(err)
		}
		if isolation != "read committed" || rows != 1 {
			t.Errorf("got %q and %d rows; want read committed and the row that the holder committed", isolation, rows)
		}
	})
}

// lock_timeout and statement_timeout in a DSN, or by ALTER ROLE, are meant for
// the user's statements. They also hit the lock statement, and did end the wait
// of migration tools, which then reported a "failed migration".
func TestTimeoutsAreTheUsersOwn(t *testing.T) {
	t.Parallel()
	inSession := "SET lock_timeout = '210ms'; SET statement_timeout = '310ms'"
	tests := []struct {
		name       string
		params     []string
		session    string
		lock, stmt string
	}{
		{"in the DSN", []string{"lock_timeout", "200ms", "statement_timeout", "300ms"}, "", "200ms", "300ms"},
		{"in the session", nil, inSession, "210ms", "310ms"},
		{"in both", []string{"lock_timeout", "1min", "statement_timeout", "1min"}, inSession, "210ms", "310ms"},
		{"statement_timeout alone", []string{"statement_timeout", "300ms"}, "", "0", "300ms"},
		{"none", nil, "", "0", "0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachDriver(t, func(t *testing.T, driver string) {
				dsn := pgtest.Shared(t).NewDB(t)
				admin := sqltest.Open(t, "pgx", dsn)
				db := lockPool(t, driver, pgtest.WithParams(dsn, tt.params...))
				db.SetMaxOpenConns(1) // so that the session is the one that was SET
				if tt.session != "" {
					sqltest.Exec(t, db, tt.session)
				}
				key := advisorylock.KeyOf(t.Name())
				show := func(ctx context.Context, tx *sql.Tx) error {
					for name, want := range map[string]string{"lock_timeout": tt.lock, "statement_timeout": tt.stmt} {
						var got string
						if err := tx.QueryRowContext(ctx, "SHOW "+name).Scan(&got); err != nil {
							return err
						}
						if got != want {
							t.Errorf("%s in the function: got %s; want %s", name, got, want)
						}
					}
					return nil
				}
				if err := advisorylock.WithXactLock(t.Context(), db, key, show); err != nil {
					t.Fatalf("without a wait: %v", err)
				}

				holder := occupy(t, dsn, key)
				locker, lasting := lastingWait(advisorylock.Locker{})
				done := inBackground(func() error { return locker.WithXactLock(t.Context(), db, key, show) })
				await.Value(t, lasting)
				awaitWaiters(t, admin, key, 1)
				sqltest.Commit(t, holder)
				if err := await.Value(t, done); err != nil {
					t.Errorf("after a wait of more than a second: %v", err)
				}
			})
		})
	}
}

// With a schema in front of pg_catalog on the search_path, an unqualified
// pg_advisory_xact_lock calls whatever is there by that name, and locks nothing.
// Operators are looked up in the same way.
func TestLookAlikesOnTheSearchPath(t *testing.T) {
	t.Parallel()
	const lookAlikes = `
		CREATE SCHEMA evil;
		CREATE FUNCTION evil.pg_advisory_xact_lock(bigint) RETURNS void LANGUAGE sql AS '';
		CREATE FUNCTION evil.pg_advisory_xact_lock_shared(bigint) RETURNS void LANGUAGE sql AS '';
		CREATE FUNCTION evil.pg_try_advisory_xact_lock(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
		CREATE FUNCTION evil.pg_try_advisory_xact_lock_shared(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
		CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT $2';
		CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''7s''';
		CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT ''7s''';
		CREATE FUNCTION evil.host(inet) RETURNS text LANGUAGE sql AS 'SELECT ''evil''';
		CREATE VIEW evil.pg_locks AS SELECT * FROM pg_catalog.pg_locks WHERE false;
		CREATE VIEW evil.pg_stat_activity AS SELECT * FROM pg_catalog.pg_stat_activity WHERE false;
		CREATE VIEW evil.pg_namespace AS SELECT * FROM pg_catalog.pg_namespace WHERE false;
		CREATE FUNCTION evil.glue(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''evil''';
		CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.glue);
		DO $$ DECLARE typ text; BEGIN
			FOREACH typ IN ARRAY ARRAY['text', 'name', 'oid', 'int2', 'int4', 'int8', 'boolean'] LOOP
				EXECUTE format('CREATE FUNCTION evil.never(%1$s, %1$s) RETURNS boolean LANGUAGE sql AS ''SELECT false''', typ);
				EXECUTE format('CREATE OPERATOR evil.= (LEFTARG = %1$s, RIGHTARG = %1$s, FUNCTION = evil.never)', typ);
			END LOOP;
		END $$`
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		sqltest.Exec(t, admin, lookAlikes)
		db := lockPool(t, driver, pgtest.WithParams(dsn, "search_path", "evil, pg_catalog"))
		if sqltest.Ask[bool](t, db, "SELECT 1 = 1") {
			t.Fatal("the look-alike operator is not the one that is found; this test proves nothing")
		}
		key := advisorylock.KeyOf(t.Name())
		locked := func(context.Context, *sql.Tx) error {
			return wantTaken(t.Context(), admin, key)
		}

		t.Run("free", func(t *testing.T) {
			if err := advisorylock.WithXactLock(t.Context(), db, key, locked); err != nil {
				t.Error(err)
			}
			if err := advisorylock.TryWithXactLock(t.Context(), db, key, locked); err != nil {
				t.Error(err)
			}
		})
		t.Run("taken", func(t *testing.T) {
			holder := occupy(t, dsn, key)
			if err := advisorylock.TryWithXactLock(t.Context(), db, key, noTx); !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("Try: got %v; want ErrNotAcquired", err)
			}
			locker, lasting := lastingWait(advisorylock.Locker{})
			done := inBackground(func() error { return locker.WithXactLock(t.Context(), db, key, locked) })
			if wait := await.Value(t, lasting); len(wait.Holders) != 1 {
				t.Errorf("got %d holders; want the one that is there", len(wait.Holders))
			}
			sessions, err := advisorylock.Sessions(t.Context(), db, key)
			if err != nil || len(sessions) == 0 || !sessions[0].Granted || strings.Contains(sessions[0].Client, "evil") {
				t.Errorf("Sessions: got %v, %v; want the holder first", sessions, err)
			}
			sqltest.Commit(t, holder)
			if err := await.Value(t, done); err != nil {
				t.Error(err)
			}
		})
		t.Run("hold", func(t *testing.T) {
			err := advisorylock.Hold(t.Context(), db, key, func(ctx context.Context) error { return locked(ctx, nil) })
			if err != nil {
				t.Error(err)
			}
		})
		t.Run("schema", func(t *testing.T) {
			var steps locktrace.Recorder
			guard := schemaguard.Guard{SkipIfExists: true, Trace: steps.Trace()}
			for range 2 {
				if err := guard.Ensure(t.Context(), db, "app", nil); err != nil {
					t.Fatal(err)
				}
			}
			const want = "connect > look > release > connect > begin > lock > create schema > commit > release > connect > look > release"
			if got := steps.String(); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	})
}

// "Could not get the lock" without a name is what people find in their logs at
// night: who has it, since when, and how to get rid of it, is what they need.
func TestWaitErrorNamesTheHolder(t *testing.T) {
	t.Parallel()
	errShutdown := errors.New("the deployment was called off")
	for _, size := range []int{0, 1} {
		t.Run(fmt.Sprintf("pool of %d", size), func(t *testing.T) {
			eachDriver(t, func(t *testing.T, driver string) {
				role := newRole(t)
				dsn := pgtest.Shared(t).NewDB(t)
				admin := sqltest.Open(t, "pgx", dsn)
				db := lockPool(t, driver, dsn)
				db.SetMaxOpenConns(size)
				key := advisorylock.KeyOf(t.Name())
				holder := occupy(t, pgtest.WithParams(pgtest.WithUser(dsn, role, rolePassword), "application_name", "billing worker"), key)

				ctx, cancel := context.WithCancelCause(t.Context())
				done := inBackground(func() error { return advisorylock.WithXactLock(ctx, db, key, noTx) })
				awaitWaiters(t, admin, key, 1)
				cancel(errShutdown)
				err := await.Value(t, done)

				if !errors.Is(err, context.Canceled) || !errors.Is(err, errShutdown) {
					t.Errorf("got %v; want the context's error and its cause", err)
				}
				var wait *advisorylock.WaitError
				if !errors.As(err, &wait) {
					t.Fatalf("got %v; want a WaitError", err)
				}
				if len(wait.Holders) != 1 || wait.Key != key || wait.Waited <= 0 {
					t.Fatalf("got %+v; want the key, the time and one holder", wait)
				}
				got, want := wait.Holders[0], sessionOf(t, admin, role)
				if !got.Since.Equal(want.Since) || !strings.Contains(got.Query, "pg_advisory_xact_lock") {
					t.Errorf("got since %v, query %q; want %v and the lock statement", got.Since, got.Query, want.Since)
				}
				got.Since, got.Query, want.Since, want.Query = time.Time{}, "", time.Time{}, ""
				if got != want {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
				for _, part := range []string{key.String(), "billing worker", role, "idle in transaction", wait.Holders[0].TerminateSQL()} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%q is not in: %v", part, err)
					}
				}
				if inUse := db.Stats().InUse; inUse != 0 {
					t.Errorf("got %d connections in use; want 0", inUse)
				}

				sqltest.Exec(t, admin, wait.Holders[0].TerminateSQL())
				if err := advisorylock.WithXactLock(t.Context(), db, key, noTx); err != nil {
					t.Errorf("after the holder was ended: %v", err)
				}
				if err := holder.Commit(); err == nil {
					t.Error("the holder committed; want its session ended by the SQL in the error")
				}
			})
		})
	}
}

// A role sees of other roles' sessions the pid, the user and the application;
// for the query the server shows the text "<insufficient privilege>".
func TestRoleThatMayNotSeeOthers(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		role := newRole(t)
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		key := advisorylock.KeyOf(t.Name())
		holder := occupy(t, pgtest.WithParams(dsn, "application_name", "billing worker"), key)
		db := lockPool(t, driver, pgtest.WithUser(dsn, role, rolePassword))

		sessions, err := advisorylock.Sessions(t.Context(), db, key)
		if err != nil || len(sessions) != 1 {
			t.Fatalf("got %v, %v; want one session", sessions, err)
		}
		got := sessions[0]
		if got.PID != sqltest.Ask[int](t, holder, "SELECT pg_backend_pid()") || got.Application != "billing worker" || !got.Granted {
			t.Errorf("got %+v; want the pid and the application", got)
		}
		if got.Query != "" || got.State != "" || !got.Since.IsZero() {
			t.Errorf("got query %q, state %q, since %v; want what may not be seen to be zero", got.Query, got.State, got.Since)
		}

		ctx, cancel := context.WithCancel(t.Context())
		done := inBackground(func() error { return advisorylock.WithXactLock(ctx, db, key, noTx) })
		awaitWaiters(t, admin, key, 1)
		cancel()
		if err := await.Value(t, done); err == nil || !strings.Contains(err.Error(), got.TerminateSQL()) || strings.Contains(err.Error(), "privilege") {
			t.Errorf("got %v; want the holder's pid, and nothing about privileges", err)
		}
		sqltest.Commit(t, holder)
	})
}

// After pg_terminate_backend pgx reports 57P01 and lib/pq a bare
// "driver: bad connection": nothing that a caller could tell apart from a
// failed statement.
func TestTerminatedHolderHasLostTheLock(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		db := lockPool(t, driver, dsn)
		key := advisorylock.KeyOf(t.Name())
		terminate := func() { terminateHolder(t, admin, key) }

		t.Run("function returns nil", func(t *testing.T) {
			err := advisorylock.WithXactLock(t.Context(), db, key, func(context.Context, *sql.Tx) error {
				terminate()
				return nil
			})
			var failed *locktrace.StepError
			if !errors.Is(err, advisorylock.ErrLost) || !errors.As(err, &failed) || failed.Step != locktrace.Commit {
				t.Errorf("got %v; want ErrLost at commit", err)
			}
		})
		t.Run("function returns its statement's error", func(t *testing.T) {
			var own error
			err := advisorylock.WithXactLock(t.Context(), db, key, func(ctx context.Context, tx *sql.Tx) error {
				terminate()
				_, own = tx.ExecContext(ctx, "SELECT 1")
				return own
			})
			if own == nil || !errors.Is(err, advisorylock.ErrLost) || !errors.Is(err, own) {
				t.Errorf("got %v; want ErrLost and %v", err, own)
			}
		})
		t.Run("function returns an error of its own", func(t *testing.T) {
			own := errors.New("own")
			err := advisorylock.WithXactLock(t.Context(), db, key, func(context.Context, *sql.Tx) error {
				terminate()
				return own
			})
			if !errors.Is(err, advisorylock.ErrLost) || !errors.Is(err, own) {
				t.Errorf("got %v; want ErrLost and %v", err, own)
			}
		})
		t.Run("hold", func(t *testing.T) {
			locker := advisorylock.Locker{TTL: time.Second}
			err := locker.Hold(t.Context(), db, key, func(ctx context.Context) error {
				terminate()
				<-ctx.Done()
				if cause := context.Cause(ctx); !errors.Is(cause, advisorylock.ErrLost) {
					t.Errorf("got cause %v; want ErrLost", cause)
				}
				return nil
			})
			if !errors.Is(err, advisorylock.ErrLost) {
				t.Errorf("got %v; want ErrLost", err)
			}
		})
		if err := advisorylock.WithXactLock(t.Context(), db, key, noTx); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A transaction that was begun with the caller's context is rolled back by
// database/sql when that context ends, behind the back of a callback that still
// runs: another process had the lock while the first one was still migrating.
// TestFactContextTakesTransaction shows it.
func TestCancelDoesNotFreeTheLock(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := pgtest.Shared(t).NewDB(t)
		other := lockPool(t, "pgx", dsn)
		sqltest.Exec(t, other, "CREATE TABLE done (id int)")
		db := lockPool(t, driver, dsn)
		key := advisorylock.KeyOf(t.Name())

		for _, wait := range []string{"no wait", "a wait of more than a second"} {
			t.Run(wait, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				run := func(locker advisorylock.Locker) error {
					return locker.WithXactLock(ctx, db, key, func(fnCtx context.Context, tx *sql.Tx) error {
						if _, err := tx.ExecContext(fnCtx, "INSERT INTO done VALUES (1)"); err != nil {
							return err
						}
						cancel()
						<-fnCtx.Done()
						staysTaken(t, other, key)
						return nil
					})
				}
				var done <-chan error
				if wait == "no wait" {
					done = inBackground(func() error { return run(advisorylock.Locker{}) })
				} else {
					holder := occupy(t, dsn, key)
					locker, lasting := lastingWait(advisorylock.Locker{})
					done = inBackground(func() error { return run(locker) })
					await.Value(t, lasting)
					sqltest.Commit(t, holder)
				}
				if err := await.Value(t, done); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v; want the context's error, without a commit", err)
				}
				if err := advisorylock.TryWithXactLock(t.Context(), other, key, noTx); err != nil {
					t.Errorf("after the function returned: %v", err)
				}
				if rows := sqltest.Ask[int](t, other, "SELECT count(*) FROM done"); rows != 0 {
					t.Errorf("got %d rows committed; want 0", rows)
				}
			})
		}
		t.Run("hold", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := advisorylock.Hold(ctx, db, key, func(fnCtx context.Context) error {
				cancel()
				<-fnCtx.Done()
				staysTaken(t, other, key)
				return nil
			})
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v; want nil or the context's error", err)
			}
		})
	})
}

// A waiter whose client is gone can stay in the server's queue, and get the
// lock later, for nobody.
func TestCancelledWaitLeavesNoWaiter(t *testing.T) {
	t.Parallel()
	waits := map[string]func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error{
		"WithXactLock": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
			return l.WithXactLock(ctx, db, key, noTx)
		},
		"Hold": func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
			return l.Hold(ctx, db, key, func(context.Context) error { return nil })
		},
	}
	for op, wait := range waits {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			eachDriver(t, func(t *testing.T, driver string) {
				dsn := pgtest.Shared(t).NewDB(t)
				admin := sqltest.Open(t, "pgx", dsn)
				db := lockPool(t, driver, dsn)
				key := advisorylock.KeyOf(t.Name())
				holder := occupy(t, dsn, key)
				for _, long := range []bool{false, true} {
					ctx, cancel := context.WithCancel(t.Context())
					locker, lasting := lastingWait(advisorylock.Locker{})
					done := inBackground(func() error { return wait(ctx, locker, db, key) })
					if long {
						await.Value(t, lasting)
					}
					awaitWaiters(t, admin, key, 1)
					cancel()
					if err := await.Value(t, done); !errors.Is(err, context.Canceled) {
						t.Errorf("long=%t: got %v; want the context's error", long, err)
					}
					awaitWaiters(t, admin, key, 0)
				}
				sqltest.Commit(t, holder)
			})
		})
	}
}

// A migrate that runs before the lock's connection is given back hangs for ever
// on a pool of one.
func TestPoolOfOne(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		db := lockPool(t, driver, pgtest.Shared(t).NewDB(t))
		db.SetMaxOpenConns(1)
		for _, guard := range []schemaguard.Guard{
			{},
			{SkipIfExists: true},
			{Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.migrations (id int)")
				return err
			}},
		} {
			err := guard.Ensure(ctx, db, "app", func(ctx context.Context, db *sql.DB) error {
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer tx.Rollback() //nolint:errcheck // after Commit
				if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.users (id int)"); err != nil {
					return err
				}
				return tx.Commit()
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		key := advisorylock.KeyOf(t.Name())
		err := advisorylock.Hold(ctx, db, key, func(context.Context) error { return nil })
		if !errors.Is(err, advisorylock.ErrPoolTooSmall) {
			t.Errorf("Hold: got %v; want ErrPoolTooSmall at once", err)
		}
		if tables := sqltest.Ask[int](t, db, "SELECT count(*) FROM pg_tables WHERE schemaname = 'app'"); tables != 2 {
			t.Errorf("got %d tables; want 2", tables)
		}
	})
}

// Callbacks that use the pool while as many others wait for the lock as the
// pool has connections hang for ever: the waiters have them all.
func TestSixtyCallersOnAPoolOfThree(t *testing.T) {
	t.Parallel()
	const callers, size = 60, 3
	keysOf := map[string]func(i int) advisorylock.Key{
		"one key":    func(int) advisorylock.Key { return 1 },
		"three keys": func(i int) advisorylock.Key { return advisorylock.Key(i % 3) },
		"sixty keys": func(i int) advisorylock.Key { return advisorylock.Key(i) },
	}
	eachDriver(t, func(t *testing.T, driver string) {
		for name, keyOf := range keysOf {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				db := lockPool(t, driver, pgtest.Shared(t).NewDB(t))
				db.SetMaxOpenConns(size)
				var inside [callers]atomic.Int32
				work := func(key advisorylock.Key) error {
					defer inside[key].Add(-1)
					if n := inside[key].Add(1); n != 1 {
						return fmt.Errorf("%d callers under key %d; want 1", n, key)
					}
					var one int
					return db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
				}
				errs := make(chan error, callers)
				var begin sync.WaitGroup
				begin.Add(callers)
				for i := range callers {
					go func() {
						begin.Done()
						begin.Wait()
						key := keyOf(i)
						if i%2 == 0 {
							errs <- advisorylock.WithXactLock(ctx, db, key, func(context.Context, *sql.Tx) error { return work(key) })
						} else {
							errs <- advisorylock.Hold(ctx, db, key, func(context.Context) error { return work(key) })
						}
					}()
				}
				for range callers {
					if err := await.Value(t, errs); err != nil {
						t.Error(err)
					}
				}
			})
		}
	})
}

// A snapshot left behind by an idle lock transaction makes every CREATE INDEX
// CONCURRENTLY in the database wait for its end, and holds back vacuum. A key
// sent as $1 leaves one; see TestFactSnapshots.
func TestIdleLockTransactionHasNoSnapshot(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		db := lockPool(t, driver, dsn)
		key := advisorylock.KeyOf(t.Name())
		check := func() error {
			var state string
			var xmin sql.NullString
			err := admin.QueryRowContext(t.Context(), `SELECT a.state, a.backend_xmin::text FROM pg_stat_activity a JOIN pg_locks l USING (pid)
				WHERE l.locktype = 'advisory' AND l.granted AND l.database = a.datid AND a.datname = current_database()`).Scan(&state, &xmin)
			if err == nil && (state != "idle in transaction" || xmin.Valid) {
				err = fmt.Errorf("got state %q, backend_xmin %v; want an idle transaction without a snapshot", state, xmin)
			}
			return err
		}
		inXact := func(l advisorylock.Locker) error {
			return l.WithXactLock(t.Context(), db, key, func(context.Context, *sql.Tx) error { return check() })
		}
		held := func(l advisorylock.Locker) error {
			return l.Hold(t.Context(), db, key, func(context.Context) error { return check() })
		}
		tryXact := func(l advisorylock.Locker) error {
			return l.TryWithXactLock(t.Context(), db, key, func(context.Context, *sql.Tx) error { return check() })
		}
		tryHeld := func(l advisorylock.Locker) error {
			return l.TryHold(t.Context(), db, key, func(context.Context) error { return check() })
		}
		for name, take := range map[string]func(advisorylock.Locker) error{"WithXactLock": inXact, "Hold": held, "TryWithXactLock": tryXact, "TryHold": tryHeld} {
			for _, locker := range []advisorylock.Locker{{}, {TTL: time.Minute}, {Shared: true}, {Name: "app"}} {
				if err := take(locker); err != nil {
					t.Errorf("%s by %+v: %v", name, locker, err)
				}
			}
		}
		for name, take := range map[string]func(advisorylock.Locker) error{"WithXactLock": inXact, "Hold": held} {
			holder := occupy(t, dsn, key)
			locker, lasting := lastingWait(advisorylock.Locker{})
			done := inBackground(func() error { return take(locker) })
			await.Value(t, lasting)
			sqltest.Commit(t, holder)
			if err := await.Value(t, done); err != nil {
				t.Errorf("%s after a wait of more than a second: %v", name, err)
			}
		}
	})
}

// A session blocked in pg_advisory_xact_lock keeps a snapshot. When the holder
// then builds an index concurrently, on another connection, it waits for that
// snapshot, and PostgreSQL sees no cycle: both hang for ever. That took whole
// deployments down with several migration tools. TestFactWaiterBlocksIndex shows
// it.
func TestConcurrentIndexUnderHold(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		sqltest.Exec(t, admin, "CREATE TABLE users (id int); INSERT INTO users VALUES (1)")
		db, others := lockPool(t, driver, dsn), lockPool(t, driver, dsn)
		key := advisorylock.KeyOf(t.Name())

		var inXact, held <-chan error
		err := advisorylock.Hold(t.Context(), db, key, func(ctx context.Context) error {
			inXact = inBackground(func() error { return advisorylock.WithXactLock(t.Context(), others, key, noTx) })
			awaitWaiters(t, admin, key, 1)
			// Another pool, as if it were another process.
			third := lockPool(t, driver, dsn)
			held = inBackground(func() error {
				return advisorylock.Hold(t.Context(), third, key, func(context.Context) error { return nil })
			})
			awaitWaiters(t, admin, key, 2)
			ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
			defer cancel()
			_, err := db.ExecContext(ctx, "CREATE INDEX CONCURRENTLY users_id ON users (id)")
			return err
		})
		if err != nil {
			t.Fatalf("the index was not built while others waited for the lock: %v", err)
		}
		for name, done := range map[string]<-chan error{"WithXactLock": inXact, "Hold": held} {
			if err := await.Value(t, done); err != nil {
				t.Errorf("the waiter in %s: %v", name, err)
			}
		}
		if !sqltest.Ask[bool](t, admin, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'users_id'::regclass") {
			t.Error("the index is not valid")
		}
	})
}

// Schema names are the user's: nothing folds their case, reads a dot in them,
// or runs them.
func TestNamesAsTheyCome(t *testing.T) {
	t.Parallel()
	names := []string{
		"app",
		"App",
		"with space",
		" leading and trailing ",
		"dots.in.it",
		`"quoted"`,
		`"`,
		"it's",
		`back\slash`,
		`back\'both`,
		`\`,
		"schöne_größe",
		"схема",
		"図式🔒",
		`x"; CREATE SCHEMA "pwned"; --`,
		`x'; CREATE SCHEMA pwned; --`,
		`"."`,
		"$1",
		"%s",
		"$bootlock$",
		"/* comment */",
		"-- comment",
		"select",
		"new\nline\ttab",
		"xpg_catalog",
		"PG_upper",
		"public2",
		strings.Repeat("x", 63),
		strings.Repeat("é", 31),
	}
	for _, conforming := range []string{"on", "off"} {
		t.Run("standard_conforming_strings "+conforming, func(t *testing.T) {
			t.Parallel()
			eachDriver(t, func(t *testing.T, driver string) {
				dsn := pgtest.Shared(t).NewDB(t)
				admin := sqltest.Open(t, "pgx", dsn)
				existing := schemas(t, admin)
				db := lockPool(t, driver, pgtest.WithParams(dsn, "standard_conforming_strings", conforming, "backslash_quote", "off"))
				want := slices.Concat(existing, names)
				slices.Sort(want)
				for _, name := range names {
					for _, steps := range []string{
						"connect > look > release > connect > begin > lock > create schema > commit > release",
						"connect > look > release",
					} {
						var trace locktrace.Recorder
						guard := schemaguard.Guard{SkipIfExists: true, Trace: trace.Trace()}
						if err := guard.Ensure(t.Context(), db, name, nil); err != nil {
							t.Errorf("%q: %v", name, err)
						}
						if got := trace.String(); got != steps {
							t.Errorf("%q:\ngot  %s\nwant %s", name, got, steps)
						}
					}
				}
				if got := schemas(t, admin); !slices.Equal(got, want) {
					t.Errorf("got  %q\nwant %q", got, want)
				}
			})
		})
	}
}

// What the server would cut or refuse is refused before anything is sent; here
// the server is asked whether it really would.
func TestNamesThatTheServerWouldCutOrRefuse(t *testing.T) {
	t.Parallel()
	db := lockPool(t, "pgx", pgtest.Shared(t).NewDB(t))
	before := schemas(t, db)
	for _, name := range []string{"", "pg_app", strings.Repeat("x", 64), strings.Repeat("é", 32), "a\x00b", "\xff"} {
		if err := schemaguard.Ensure(t.Context(), db, name, nil); err == nil {
			t.Errorf("%q: got no error", name)
		}
		_, err := db.ExecContext(t.Context(), "CREATE SCHEMA "+quoted(name))
		if err == nil && !slices.Equal(schemas(t, db), before) {
			if slices.Contains(schemas(t, db), name) {
				t.Errorf("%q: the server takes this name", name)
			}
			sqltest.Exec(t, db, "DROP SCHEMA "+quoted(name))
		}
	}
	if got := schemas(t, db); !slices.Equal(got, before) {
		t.Errorf("got %q; want nothing new beside %q", got, before)
	}
}

// Other programs, in other languages, take the same lock: the keys can be
// computed in SQL, and are the same for ever.
func TestKeysComputedInSQL(t *testing.T) {
	t.Parallel()
	db := lockPool(t, "pgx", pgtest.Shared(t).NewDB(t))
	const keyOf = "SELECT ('x' || left(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 16))::bit(64)::bigint"
	negative, positive := false, false
	for _, name := range []string{"", "app", "App", "it's", `back\slash`, "схема", "図式🔒", "a b.c", strings.Repeat("x", 500)} {
		for text, got := range map[string]advisorylock.Key{
			name:                  advisorylock.KeyOf(name),
			"schemaguard:" + name: schemaguard.KeyFor(name),
			"schemaguard/migrate:" + schemaguard.KeyFor(name).String(): schemaguard.MigrateKey(schemaguard.KeyFor(name)),
		} {
			if want := advisorylock.Key(sqltest.Ask[int64](t, db, keyOf, text)); got != want {
				t.Errorf("%q: got %d; the server says %d", text, got, want)
			}
			negative, positive = negative || got < 0, positive || got > 0
		}
	}
	if !negative || !positive {
		t.Error("the keys are all of one sign; want both")
	}
}

func TestEveryKeyIsTaken(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		db := lockPool(t, driver, dsn)
		for _, key := range []advisorylock.Key{0, 1, -1, 1<<31 - 1, 1 << 31, -1 << 31, -1<<31 - 1, 1 << 32, 1<<63 - 1, -1 << 63} {
			check := func() error {
				held := sqltest.Ask[string](t, admin, `SELECT string_agg(((classid::bigint << 32) | objid::bigint)::text, ' ') FROM pg_locks
					WHERE locktype = 'advisory' AND objsubid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
				if held != key.String() {
					return fmt.Errorf("got the lock %s; want %d", held, key)
				}
				sessions, err := advisorylock.Sessions(t.Context(), db, key)
				if err == nil && len(sessions) != 1 {
					err = fmt.Errorf("key %d: got %d sessions; want 1", key, len(sessions))
				}
				return err
			}
			for _, err := range []error{
				advisorylock.WithXactLock(t.Context(), db, key, func(context.Context, *sql.Tx) error { return check() }),
				advisorylock.TryWithXactLock(t.Context(), db, key, func(context.Context, *sql.Tx) error { return check() }),
				advisorylock.Hold(t.Context(), db, key, func(context.Context) error { return check() }),
			} {
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// CREATE SCHEMA IF NOT EXISTS fails with 42501 for a role without CREATE, and
// with 25006 in a read-only session, even where there is nothing to create: a
// service with few rights could not start although everything was in place.
func TestRoleWithoutCreate(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		role := newRole(t)
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		sqltest.Exec(t, admin, "CREATE SCHEMA there; GRANT CREATE, USAGE ON SCHEMA there TO "+quoted(role))
		db := lockPool(t, driver, pgtest.WithUser(dsn, role, rolePassword))
		bootstrap := func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS there.migrations (id int)")
			return err
		}

		for name, guard := range map[string]schemaguard.Guard{
			"plain":        {},
			"SkipIfExists": {SkipIfExists: true},
			"Bootstrap":    {Bootstrap: bootstrap},
		} {
			migrated := false
			err := guard.Ensure(t.Context(), db, "there", func(ctx context.Context, db *sql.DB) error {
				migrated = true
				return db.PingContext(ctx)
			})
			if err != nil || !migrated {
				t.Errorf("%s: got %v, migrated %t; want the schema that is there to be enough", name, err, migrated)
			}
			migrated = false
			err = guard.Ensure(t.Context(), db, "missing", func(context.Context, *sql.DB) error {
				migrated = true
				return nil
			})
			wantStep(t, err, locktrace.CreateSchema)
			if migrated || sqlstate.Of(err) != "42501" || !strings.Contains(err.Error(), "GRANT CREATE ON DATABASE") {
				t.Errorf("%s: got %v, migrated %t; want 42501 and what to do about it", name, err, migrated)
			}
		}
		if tables := sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_tables WHERE schemaname = 'there'"); tables != 1 {
			t.Errorf("got %d tables; want the one of Bootstrap", tables)
		}
	})
}

func TestReadOnlyByDefault(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := pgtest.Shared(t).NewDB(t)
		admin := sqltest.Open(t, "pgx", dsn)
		sqltest.Exec(t, admin, "CREATE SCHEMA there")
		db := lockPool(t, driver, pgtest.WithParams(dsn, "default_transaction_read_only", "on"))
		for _, guard := range []schemaguard.Guard{{}, {SkipIfExists: true}} {
			migrated := false
			err := guard.Ensure(t.Context(), db, "there", func(context.Context, *sql.DB) error {
				migrated = true
				return nil
			})
			if err != nil || !migrated {
				t.Errorf("got %v, migrated %t; want the schema that is there to be enough", err, migrated)
			}
		}
		err := schemaguard.Ensure(t.Context(), db, "missing", nil)
		if driver == "postgres" { // it asks for READ WRITE; see TestFactBeginReadWrite
			if err != nil {
				t.Errorf("got %v; want the schema created", err)
			}
			return
		}
		wantStep(t, err, locktrace.CreateSchema)
		if sqlstate.Of(err) != "25006" || !strings.Contains(err.Error(), "default_transaction_read_only") {
			t.Errorf("got %v; want 25006 and what to do about it", err)
		}
	})
}

func TestOwner(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		role := newRole(t)
		dsn := pgtest.Shared(t).NewDB(t)
		db := lockPool(t, driver, dsn)
		guard := schemaguard.Guard{Owner: role}
		if err := guard.Ensure(t.Context(), db, "app", nil); err != nil {
			t.Fatal(err)
		}
		owner := sqltest.Ask[string](t, db, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'app'")
		if want := quoted(role); owner != want {
			t.Errorf("got owner %s; want %s", owner, want)
		}
		guard.Owner += "_nobody"
		err := guard.Ensure(t.Context(), db, "other", nil)
		wantStep(t, err, locktrace.CreateSchema)
		if sqlstate.Of(err) != "42704" {
			t.Errorf("got %v; want 42704, there is no such role", err)
		}
	})
}

func TestSessionsListsHoldersAndWaiters(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t).NewDB(t)
	admin := sqltest.Open(t, "pgx", dsn)
	const key = advisorylock.Key(7<<32 | 9)
	first := lockPool(t, "postgres", pgtest.WithParams(dsn, "application_name", "exclusive"))
	second := lockPool(t, "pgx", pgtest.WithParams(dsn, "application_name", "shared"))
	holder := occupy(t, pgtest.WithParams(dsn, "application_name", "holder"), key)
	// The two-key form with the same numbers is another lock, and so is the
	// same key in another database.
	sqltest.Exec(t, sqltest.Begin(t, sqltest.Open(t, "pgx", dsn)), "SELECT pg_advisory_xact_lock(7, 9)")
	sqltest.Exec(t, sqltest.Begin(t, sqltest.Open(t, "pgx", pgtest.Shared(t).NewDB(t))), "SELECT pg_advisory_xact_lock("+key.String()+")")

	ctx := t.Context()
	exclusive := inBackground(func() error { return advisorylock.WithXactLock(ctx, first, key, noTx) })
	awaitWaiters(t, admin, key, 1)
	shared := inBackground(func() error {
		return advisorylock.Locker{Shared: true}.WithXactLock(ctx, second, key, noTx)
	})

	eachDriver(t, func(t *testing.T, driver string) {
		db := sqltest.Open(t, driver, dsn)
		await.Until(t, "a holder and two waiters", func() error {
			sessions, err := advisorylock.Sessions(ctx, db, key)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			pids := map[int]bool{}
			for _, s := range sessions {
				got = append(got, fmt.Sprintf("%s granted=%t shared=%t", s.Application, s.Granted, s.Shared))
				pids[s.PID] = true
			}
			if len(got) > 1 {
				slices.Sort(got[1:]) // by start of a transaction that begins anew every second
			}
			want := []string{"holder granted=true shared=false", "exclusive granted=false shared=false", "shared granted=false shared=true"}
			if !slices.Equal(got, want) || len(pids) != 3 {
				return fmt.Errorf("got %q; want %q", got, want)
			}
			return nil
		})
	})
	sqltest.Commit(t, holder)
	for _, done := range []<-chan error{exclusive, shared} {
		if err := await.Value(t, done); err != nil {
			t.Error(err)
		}
	}
	if sessions, err := advisorylock.Sessions(ctx, admin, key); err != nil || len(sessions) != 0 {
		t.Errorf("afterwards: got %v, %v; want none", sessions, err)
	}
}

func TestFailingFunctionRollsBack(t *testing.T) {
	t.Parallel()
	own := errors.New("own")
	tests := []struct {
		name string
		end  func() error
		err  error
	}{
		{"error", func() error { return own }, own},
		{"panic", func() error { panic(own) }, own},
		{"Goexit", func() error { runtime.Goexit(); return nil }, nil},
	}
	eachDriver(t, func(t *testing.T, driver string) {
		db := lockPool(t, driver, pgtest.Shared(t).NewDB(t))
		db.SetMaxOpenConns(1)
		sqltest.Exec(t, db, "CREATE TABLE done (id int)")
		key := advisorylock.KeyOf(t.Name())
		for _, tt := range tests {
			ended := make(chan error, 1)
			go func() {
				var err error
				defer func() {
					if v := recover(); v != nil {
						err = v.(error)
					}
					ended <- err
				}()
				err = advisorylock.WithXactLock(t.Context(), db, key, func(ctx context.Context, tx *sql.Tx) error {
					if _, err := tx.ExecContext(ctx, "INSERT INTO done VALUES (1)"); err != nil {
						return err
					}
					return tt.end()
				})
			}()
			if err := await.Value(t, ended); !errors.Is(err, tt.err) {
				t.Errorf("%s: got %v; want %v", tt.name, err, tt.err)
			}
			if inUse := db.Stats().InUse; inUse != 0 {
				t.Fatalf("%s: got %d connections in use; want 0", tt.name, inUse)
			}
			if rows := sqltest.Ask[int](t, db, "SELECT count(*) FROM done"); rows != 0 {
				t.Errorf("%s: got %d rows; want 0", tt.name, rows)
			}
			if err := advisorylock.TryWithXactLock(t.Context(), db, key, noTx); err != nil {
				t.Errorf("%s: afterwards: %v", tt.name, err)
			}
		}
	})
}

// A commit can fail for the user's own reasons, such as a deferred constraint.
func TestFailedCommit(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		db := lockPool(t, driver, pgtest.Shared(t).NewDB(t))
		sqltest.Exec(t, db, "CREATE TABLE done (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
		var trace locktrace.Recorder
		key := advisorylock.KeyOf(t.Name())
		err := advisorylock.Locker{Trace: trace.Trace()}.WithXactLock(t.Context(), db, key, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO done VALUES (1), (1)")
			return err
		})
		wantStep(t, err, locktrace.Commit)
		if sqlstate.Of(err) != "23505" || errors.Is(err, advisorylock.ErrLost) || !strings.Contains(err.Error(), "outcome unknown") {
			t.Errorf("got %v; want 23505, not ErrLost, and that the outcome is unknown", err)
		}
		if got, want := trace.String(), "connect > begin > lock > commit! > release"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// What the tests above have in common.

// lockPool is a pool of the code under test: when the test ends, every connection
// is back in it and its database has neither an advisory lock nor an open
// transaction.
func lockPool(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db := sqltest.Open(t, driver, dsn)
	t.Cleanup(func() {
		if inUse := db.Stats().InUse; inUse != 0 {
			t.Errorf("%s: got %d connections in use at the end of the test; want 0", driver, inUse)
		}
		nothingLeft(t, dsn)
	})
	return db
}

// nothingLeft waits for the server to notice connections that were just closed.
func nothingLeft(t testing.TB, dsn string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "SET search_path = pg_catalog"); err != nil {
		t.Error(err)
		return
	}
	for {
		var left string
		err := conn.QueryRow(context.Background(), `SELECT COALESCE((SELECT string_agg(l::text, ' ') FROM pg_locks l WHERE l.locktype = 'advisory' AND l.database = d.oid), '') ||
			COALESCE((SELECT string_agg(a::text, ' ') FROM pg_stat_activity a WHERE a.datid = d.oid AND a.state LIKE 'idle in transaction%'), '')
			FROM pg_database d WHERE d.datname = current_database()`).Scan(&left)
		if err == nil && left == "" {
			return
		}
		if ctx.Err() != nil {
			t.Errorf("left behind on the server: %s (%v)", left, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// occupy takes key by hand, in a session of its own, until the transaction that
// it returns ends.
func occupy(t testing.TB, dsn string, key advisorylock.Key) *sql.Tx {
	t.Helper()
	tx := sqltest.Begin(t, sqltest.Open(t, "pgx", dsn))
	sqltest.Exec(t, tx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", key))
	return tx
}

// wantTaken returns an error unless key is taken, as seen by another session.
func wantTaken(ctx context.Context, other *sql.DB, key advisorylock.Key) error {
	err := advisorylock.TryWithXactLock(ctx, other, key, noTx)
	if !errors.Is(err, advisorylock.ErrNotAcquired) {
		return fmt.Errorf("another session tried for the lock: got %w; want ErrNotAcquired", orNil(err))
	}
	return nil
}

// staysTaken looks for longer than database/sql would need to end the
// transaction, which is a millisecond.
func staysTaken(t testing.TB, other *sql.DB, key advisorylock.Key) {
	t.Helper()
	for range 20 {
		if err := wantTaken(t.Context(), other, key); err != nil {
			t.Error(err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func orNil(err error) error {
	if err == nil {
		return errors.New("the lock")
	}
	return err
}

func noTx(context.Context, *sql.Tx) error { return nil }

// lastingWait adds to l a channel that gets what Trace.Waiting is told once the
// wait goes on for more than a second, in bursts.
func lastingWait(l advisorylock.Locker) (advisorylock.Locker, <-chan locktrace.Wait) {
	lasting := make(chan locktrace.Wait, 10)
	l.Trace = &locktrace.Trace{Waiting: func(_ context.Context, w locktrace.Wait) { lasting <- w }}
	return l, lasting
}

// awaitWaiters waits until so many sessions of the database of db wait for key.
func awaitWaiters(t testing.TB, db sqltest.Querier, key advisorylock.Key, want int) {
	t.Helper()
	await.Until(t, fmt.Sprintf("%d waiters for key %d", want, key), func() error {
		got := sqltest.Ask[int](t, db, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objsubid = 1
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND ((classid::bigint << 32) | objid::bigint) = $1`, int64(key))
		if got != want {
			return fmt.Errorf("got %d", got)
		}
		return nil
	})
}

func inBackground(call func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	return done
}

func wantStep(t testing.TB, err error, want locktrace.Step) {
	t.Helper()
	var failed *locktrace.StepError
	if !errors.As(err, &failed) || failed.Step != want {
		t.Errorf("got %v; want a StepError that says %q", err, want)
	}
}

// terminateHolder ends the session that holds key, and waits until it is gone.
func terminateHolder(t testing.TB, admin *sql.DB, key advisorylock.Key) {
	t.Helper()
	sessions, err := advisorylock.Sessions(t.Context(), admin, key)
	if err != nil || len(sessions) != 1 {
		t.Fatalf("got %v, %v; want one holder", sessions, err)
	}
	sqltest.Exec(t, admin, sessions[0].TerminateSQL())
	await.Until(t, "the session to end", func() error {
		if n := sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1", sessions[0].PID); n != 0 {
			return fmt.Errorf("got %d sessions", n)
		}
		return nil
	})
}

// sessionOf is the one session of role, as the server shows it.
func sessionOf(t testing.TB, admin *sql.DB, role string) advisorylock.Session {
	t.Helper()
	s := advisorylock.Session{User: role, Granted: true}
	err := admin.QueryRowContext(t.Context(), `SELECT pid, application_name, state, xact_start, query,
		CASE WHEN client_port = -1 THEN 'local' ELSE host(client_addr) || ':' || client_port END
		FROM pg_stat_activity WHERE usename = $1`, role).Scan(&s.PID, &s.Application, &s.State, &s.Since, &s.Query, &s.Client)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// schemas returns the names of all schemas, sorted.
func schemas(t testing.TB, db *sql.DB) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SELECT nspname FROM pg_namespace")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

const rolePassword = "boot lock"

// newRole creates a role that may log in and nothing else. Call it before the
// database is created: a role that owns something there cannot be dropped.
func newRole(t testing.TB) string {
	t.Helper()
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails
	name := `Role "` + hex.EncodeToString(b) + `"`
	admin := sqltest.Open(t, "pgx", pgtest.Shared(t).DSN)
	sqltest.Exec(t, admin, "CREATE ROLE "+quoted(name)+" LOGIN PASSWORD '"+rolePassword+"'")
	t.Cleanup(func() {
		if _, err := admin.ExecContext(context.Background(), "DROP ROLE "+quoted(name)); err != nil {
			t.Error(err)
		}
	})
	return name
}
