//go:build unix

package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/replica"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A primary with a standby, from one beginning.
func TestStandby(t *testing.T) {
	t.Parallel()
	files := replica.NewFiles(t)
	t.Run("Ensure on the standby", func(t *testing.T) {
		t.Parallel()
		ensureOnStandby(t, files)
	})
	for _, driver := range drivers {
		t.Run("failover/"+driver, func(t *testing.T) {
			t.Parallel()
			failover(t, files, driver)
		})
	}
}

// erpc and harbor did not start on a read replica: CREATE SCHEMA IF NOT EXISTS
// fails there although there is nothing to create, and lib/pq cannot even begin,
// since it asks for READ WRITE.
func ensureOnStandby(t *testing.T, files replica.Files) {
	primary, standby := files.Start(t)
	admin := sqltest.Open(t, "pgx", primary.DSN())
	sqltest.Exec(t, admin, "CREATE SCHEMA there; CREATE TABLE there.done (n int); INSERT INTO there.done VALUES (1)")
	if err := (schemaguard.Guard{Once: "build 1"}).Ensure(t.Context(), admin, "there", func(context.Context, *sql.DB) error { return nil }); err != nil {
		t.Fatal(err)
	}
	standby.CatchUp(t, primary)
	eachDriver(t, func(t *testing.T, driver string) {
		db := sqltest.Open(t, driver, standby.DSN())
		for name, guard := range map[string]schemaguard.Guard{
			"plain":          {},
			"skip if exists": {SkipIfExists: true},
			"bootstrap": {Bootstrap: func(context.Context, *sql.Tx) error {
				return errors.New("nothing can be written here")
			}},
		} {
			migrated := false
			err := guard.Ensure(t.Context(), db, "there", func(context.Context, *sql.DB) error {
				migrated = true
				return nil
			})
			if err != nil || !migrated {
				t.Errorf("%s: got %v, migrated %v; want nil and migrate, the schema is there", name, err, migrated)
			}
		}
		for name, guard := range map[string]schemaguard.Guard{"up to date": {UpToDate: locktest.HasRows("SELECT FROM there.done")}, "once": {Once: "build 1"}} {
			if err := guard.Ensure(t.Context(), db, "there", notReached(t)); err != nil {
				t.Errorf("%s: got %v; want nil", name, err)
			}
		}
		for name, err := range map[string]error{
			"a new build":     schemaguard.Guard{Once: "build 2"}.Ensure(t.Context(), db, "there", notReached(t)),
			"Migrate":         schemaguard.Migrate(t.Context(), db, "there", notReached(t)),
			"Hold":            locktest.Waits["Hold"](t.Context(), advisorylock.Locker{}, db, leaseKey),
			"WithXactLock":    locktest.Waits["WithXactLock"](t.Context(), advisorylock.Locker{}, db, leaseKey),
			"TryHold":         advisorylock.TryHold(t.Context(), db, leaseKey, locktest.None),
			"TryWithXactLock": advisorylock.TryWithXactLock(t.Context(), db, leaseKey, locktest.Nothing),
		} {
			if !errors.Is(err, advisorylock.ErrUnsupported) || !strings.Contains(err.Error(), "target_session_attrs") {
				t.Errorf("%s: got %v; want ErrUnsupported, and where to go", name, err)
			}
		}

		err := schemaguard.Ensure(t.Context(), db, "missing", notReached(t))
		if !errors.Is(err, advisorylock.ErrUnsupported) || !strings.Contains(err.Error(), "read-only") || !strings.Contains(err.Error(), "primary") {
			t.Errorf("got %v; want ErrUnsupported, and that this server is read-only", err)
		}
	})
}

// failover: the primary is killed with processes inside WithXactLock, Hold and Ensure,
// and the standby takes over. The holders are told, and the next start succeeds.
func failover(t *testing.T, files replica.Files, driver string) {
	primary, standby := files.Start(t)
	both := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable connect_timeout=10 target_session_attrs=read-write", primary.Port, standby.Port)
	db := sqltest.Open(t, driver, both)
	if err := schemaguard.Ensure(t.Context(), db, "before", nil); err != nil {
		t.Fatal(err)
	}
	standby.CatchUp(t, primary)

	inside, dead := make(chan struct{}), make(chan struct{})
	holders := map[string]<-chan error{}
	hold := func(name string, call func(wait func()) error) {
		arrive := sync.OnceFunc(func() { inside <- struct{}{} })
		holders[name] = await.Go(func() error {
			defer arrive() // even if it failed on the way
			return call(func() { arrive(); <-dead })
		})
	}
	ctx := t.Context()
	hold("WithXactLock, found out by the commit", func(wait func()) error {
		return advisorylock.WithXactLock(ctx, db, 1, func(context.Context, *sql.Tx) error { wait(); return nil })
	})
	hold("WithXactLock, found out by a statement", func(wait func()) error {
		return advisorylock.WithXactLock(ctx, db, 2, func(ctx context.Context, tx *sql.Tx) error {
			wait()
			_, err := tx.ExecContext(ctx, "SELECT 1")
			return err
		})
	})
	hold("Hold", func(wait func()) error {
		return advisorylock.Locker{TTL: 3 * time.Second}.Hold(ctx, db, 3, func(ctx context.Context) error {
			wait()
			<-ctx.Done()
			if cause := context.Cause(ctx); !errors.Is(cause, advisorylock.ErrLost) {
				t.Errorf("Hold: got cause %v; want ErrLost", cause)
			}
			return nil
		})
	})
	hold("Ensure, in Bootstrap", func(wait func()) error {
		return schemaguard.Guard{Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "CREATE TABLE in_bootstrap.first (n int)"); err != nil {
				return err
			}
			wait()
			_, err := tx.ExecContext(ctx, "CREATE TABLE in_bootstrap.second (n int)")
			return err
		}}.Ensure(ctx, db, "in_bootstrap", notReached(t))
	})
	hold("Ensure, at the commit", func(wait func()) error {
		return schemaguard.Guard{Trace: &locktrace.Trace{Start: func(ctx context.Context, e locktrace.Event) context.Context {
			if e.Step == locktrace.Commit {
				wait()
			}
			return ctx
		}}}.Ensure(ctx, db, "at_commit", notReached(t))
	})
	for range holders {
		await.Value(t, inside)
	}
	primary.End(t, syscall.SIGKILL)
	close(dead)
	for name, done := range holders {
		err := await.Value(t, done)
		if !errors.Is(err, advisorylock.ErrLost) {
			t.Errorf("%s: got %v; want ErrLost", name, err)
		}
		if unknown := strings.Contains(fmt.Sprint(err), "outcome unknown"); unknown != strings.Contains(name, "commit") {
			t.Errorf("%s: got %v; want the outcome unknown after a commit, and only then", name, err)
		}
	}

	admin := sqltest.Open(t, "pgx", standby.DSN())
	sqltest.Exec(t, admin, "SELECT pg_promote()")
	var left int
	if err := admin.QueryRowContext(ctx, "SELECT count(*) FROM pg_namespace WHERE nspname IN ('in_bootstrap', 'at_commit')").Scan(&left); err != nil || left != 0 {
		t.Errorf("got %d schemas, %v; want nothing half-made on the new primary", left, err)
	}
	// The same pool, which is full of dead connections.
	migrated := false
	err := schemaguard.Guard{Serialize: true, Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "CREATE TABLE in_bootstrap.first (n int); CREATE TABLE in_bootstrap.second (n int)")
		return err
	}}.Ensure(ctx, db, "in_bootstrap", func(ctx context.Context, db *sql.DB) error {
		migrated = true
		_, err := db.ExecContext(ctx, "INSERT INTO in_bootstrap.second VALUES (1)")
		return err
	})
	if err != nil || !migrated {
		t.Errorf("got %v, migrated %v on the promoted server; want nil, true", err, migrated)
	}
	for _, schema := range []string{"before", "at_commit"} {
		if err := schemaguard.Ensure(ctx, db, schema, nil); err != nil {
			t.Errorf("%s: got %v on the promoted server; want nil", schema, err)
		}
	}
}

func notReached(t *testing.T) func(context.Context, *sql.DB) error {
	return func(context.Context, *sql.DB) error {
		t.Error("got migrate called; want it left out")
		return nil
	}
}
