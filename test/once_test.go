//go:build unix

package test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// One process migrates for all. If it is killed or freezes in the middle, that is rolled
// back, and of those that waited for it exactly one follows; if it goes on later, it is
// refused.
func TestOncePerFleet(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"UpToDate", "Once"} {
		for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "frozen": syscall.SIGSTOP} {
			t.Run(mode+", "+name, func(t *testing.T) {
				db := newTestDB(t, pgtest.Shared(t))
				winner := start(t, "migrate", "DRIVER=pgx", "DSN="+db.dsn, "MODE="+mode)
				winner.hear(t, "in the middle")
				var fail sync.Once
				fleet := starters{n: 15, dsn: db.dsn, schema: "app", mode: mode, trace: &locktrace.Trace{Waiting: func(context.Context, locktrace.Wait) {
					fail.Do(func() { _ = winner.cmd.Process.Signal(signal) })
				}}}
				fleet.start(t)
				if signal == syscall.SIGSTOP {
					winner.signal(t, syscall.SIGCONT)
					winner.say(t, "go on")
					winner.hear(t, "migrate: ErrLost")
					winner.finish(t)
				}
				if got := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM app.done"); got != startersSteps {
					t.Errorf("got %d rows; want the %d of one migration", got, startersSteps)
				}
				db.holdsNoLock(t)
			})
		}
	}
}

func init() { children["migrate"] = migrateWhenTold }

// migrateWhenTold stops in the middle of a migration until it is told to go on. Without
// the fence it would keep its table for as long as it is frozen.
func migrateWhenTold(db *sql.DB) error {
	fleet := starters{schema: "app", mode: os.Getenv("MODE")}
	guard := fleet.guard()
	guard.TTL = leaseTTL
	err := guard.Ensure(context.Background(), db, fleet.schema, func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
		if err := advisorylock.Fence(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "CREATE TABLE app.done (step int)"); err != nil {
			return err
		}
		fmt.Println("in the middle")
		bufio.NewScanner(os.Stdin).Scan()
		return tx.Commit()
	})
	fmt.Println("migrate:", lostOr(err))
	return nil
}

// Once in the ways in which a Guard can be used.
func TestOnce(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		owner, weak := pgtest.Shared(t).NewRole(t), pgtest.Shared(t).NewRole(t)
		db := newTestDB(t, pgtest.Shared(t))
		open := func(dsn string, most int) *sql.DB {
			db := locktest.Pool(t, driver, dsn)
			db.SetMaxOpenConns(most)
			return db
		}
		as := func(role string) *sql.DB { return open(pgtest.WithUser(db.dsn, role, pgtest.RolePassword), 0) }
		refused := func(what string, guard schemaguard.Guard, db *sql.DB, schema, advice string) {
			t.Helper()
			if err := guard.Ensure(t.Context(), db, schema, notReached(t)); err == nil || !strings.Contains(err.Error(), advice) {
				t.Errorf("%s: got %v; want an error that says %q", what, err, advice)
			}
		}
		sqltest.Exec(t, db.admin, "CREATE SCHEMA not_mine; GRANT USAGE ON SCHEMA not_mine TO PUBLIC")
		build1, build2 := schemaguard.Guard{Once: "build 1"}, schemaguard.Guard{Once: "build 2"}
		refused("a role without rights, and no table", build1, as(weak), "not_mine", "")
		for schema, tc := range map[string]struct {
			guard schemaguard.Guard
			db    *sql.DB
		}{
			"public":   {build1, open(db.dsn, 0)},
			"two":      {build1, open(db.dsn, 2)},
			"lock_db":  {schemaguard.Guard{Once: "build 1", LockDB: open(db.dsn, 1)}, open(db.dsn, 1)},
			"owned":    {schemaguard.Guard{Once: "build 1", Owner: owner}, open(db.dsn, 0)},
			"not_mine": {build1, open(db.dsn, 0)},
		} {
			calls := 0
			for range 2 {
				if err := tc.guard.Ensure(t.Context(), tc.db, schema, func(ctx context.Context, db *sql.DB) error { calls++; return db.PingContext(ctx) }); err != nil {
					t.Errorf("%s: got %v; want nil", schema, err)
				}
			}
			if calls != 1 {
				t.Errorf("%s: got %d calls of migrate; want 1", schema, calls)
			}
			if n := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM "+schema+".bootlock_once WHERE name = 'build 1' AND at <= now()"); n != 1 {
				t.Errorf("%s: got %d rows; want 1", schema, n)
			}
		}
		refused("LockDB on another database", schemaguard.Guard{Once: "build 1", LockDB: open(pgtest.Shared(t).NewDB(t), 0)}, open(db.dsn, 0), "elsewhere", "")
		if table := sqltest.Ask[string](t, db.admin, "SELECT tableowner FROM pg_tables WHERE schemaname = 'owned'"); table != owner {
			t.Errorf("got owner %s of the table; want %s", table, owner)
		}
		if err := build2.Ensure(t.Context(), as(owner), "owned", func(context.Context, *sql.DB) error { return nil }); err != nil {
			t.Errorf("as the owner, who may not create schemas: got %v; want nil", err)
		}
		if err := build1.Ensure(t.Context(), as(weak), "not_mine", notReached(t)); err != nil {
			t.Errorf("a role without rights, and the row: got %v; want nil", err)
		}
		refused("a role without rights, and no row", build2, as(weak), "not_mine", "GRANT INSERT")
		sqltest.Exec(t, db.admin, "DROP SCHEMA owned CASCADE")
		db.holdsNoLock(t)
	})
}
