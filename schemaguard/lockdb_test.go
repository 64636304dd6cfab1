//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

var seesLease = "SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock_shared(" + migrateApp.String() + ") THEN 1 ELSE 0 END)"

// The locks, the schema, Bootstrap and the row go to LockDB; db is left to migrate, and
// one connection is enough for it.
func TestLockDB(t *testing.T) {
	schema := []string{"BEGIN", "lock", createApp, grantApp, "COMMIT"}
	schemaOnce := slices.Replace(slices.Clone(schema), 2, 3, createApp+"; "+tableApp)
	work := []string{seesLease, "CREATE TABLE app.t ()"}
	type test struct {
		guard    schemaguard.Guard
		conns    int // of LockDB
		locks    []string
		migrates []string
	}
	each(t, map[string]test{
		"not serialized": {schemaguard.Guard{SkipIfExists: true}, 1, slices.Concat([]string{lookApp}, schema), work[1:]},
		"serialize":      {schemaguard.Guard{Serialize: true}, 1, slices.Concat(schema, []string{"BEGIN", "lease", "COMMIT"}), slices.Concat([]string{"SELECT 1"}, work)},
		"once": {
			schemaguard.Guard{Once: "v1"},
			2,
			slices.Concat([]string{askV1}, schemaOnce, []string{"BEGIN", "lease", mayApp("SELECT"), askV1, mayWrite}, recordV1),
			slices.Concat([]string{"SELECT 1"}, work),
		},
		"once, a LockDB of one": {
			schemaguard.Guard{Once: "v1"},
			1,
			slices.Concat([]string{askV1}, schemaOnce, []string{mayWrite, "BEGIN", "lease"}, recordV1),
			slices.Concat([]string{"SELECT 1", mayApp("SELECT"), askV1}, work),
		},
	}, func(t *testing.T, test test) {
		w := newWorld()
		f, locks := w.process(t, recdriver.Plain, 1), w.process(t, recdriver.Plain, test.conns)
		test.guard.LockDB, test.guard.Bootstrap = locks.db, bootstrapGrant
		if err := f.ensureWith(t.Context(), test.guard, migrateAll); err != nil {
			t.Fatal(err)
		}
		locks.wantSent(t, test.locks...)
		f.wantSent(t, test.migrates...)
		if test.guard.Once == "" {
			return
		}
		if err := test.guard.Await(t.Context(), f.db, "app"); err != nil {
			t.Error(err)
		}
		f.wantSent(t, test.migrates...)
	})
}

// Two databases are found out before migrate, where the lock would keep nobody out.
func TestLockDBElsewhere(t *testing.T) {
	each(t, onces, func(t *testing.T, g schemaguard.Guard) {
		f, locks := newFixture(t, 2), newFixture(t, 2)
		g.LockDB = locks.db
		err := f.ensureWith(t.Context(), g, notCalled(t))
		wantText(t, err, "migrate: not called: ", "LockDB", "not on the same database")
		f.wantOrder(t, "up to date > "+created+" > connect > begin > lock > up to date > migrate! > rollback > release")
		locks.world.wantRan(t)
	})
}

// What fails on the way to finding that out is not taken for it.
func TestLockDBCannotTell(t *testing.T) {
	each(t, map[string]func(context.Context, *recdriver.Call) error{
		"connect": recdriver.FailOn(recdriver.Connect, "", 0, errBoom),
		"exec":    recdriver.FailOn(recdriver.Exec, "_shared", 0, errBoom),
	}, func(t *testing.T, hook func(context.Context, *recdriver.Call) error) {
		w := newWorld()
		f, locks := w.process(t, recdriver.Plain, 2), w.process(t, recdriver.Plain, 2)
		f.OnCall(hook)
		err := f.ensure(t, schemaguard.Guard{LockDB: locks.db, Serialize: true})
		wantStep(t, err, locktrace.Migrate, errBoom)
		if strings.Contains(err.Error(), "same database") {
			t.Errorf("got %v", err)
		}
	})
}

// The rules and errors speak of the pool that is too small: of LockDB in a migrate that
// takes a second lock with the context it was given.
func TestLockDBPoolTooSmall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		f, locks := w.process(t, recdriver.Plain, 1), w.process(t, recdriver.Plain, 1)
		g := schemaguard.Guard{LockDB: locks.db, Serialize: true}
		err := f.ensureWith(t.Context(), g, func(ctx context.Context, db *sql.DB) error {
			return g.Ensure(ctx, db, "other", nothing)
		})
		wantStep(t, err, locktrace.Migrate, advisorylock.ErrPoolTooSmall)
		g.LockDB = f.db
		wantStep(t, f.ensure(t, g), locktrace.Connect, advisorylock.ErrPoolTooSmall)

		// A right that is missing is found out before the lock.
		w.table, w.denied = true, "INSERT"
		err = f.ensure(t, schemaguard.Guard{LockDB: locks.db, Once: "v1"})
		wantText(t, err, "schemaguard.Ensure app: up to date: this session cannot record")
	})
}
