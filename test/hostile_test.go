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
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/hostile"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// Whoever may create functions and operators where others look for them runs code
// with the rights of those whose statements do not say which one they mean, and can
// make a lock that is none. So all statements say it, those of a long wait, of
// fences and of looks at the holder as well.
func TestLookAlikesAreNotCalled(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct { // any two of them together once
		path    string
		plpgsql bool
		driver  string
	}{{"in front", true, "pgx"}, {"in front", false, "postgres"}, {"behind", true, "postgres"}, {"behind", false, "pgx"}} {
		t.Run(fmt.Sprintf("%s, plpgsql %t, %s", tc.path, tc.plpgsql, tc.driver), func(t *testing.T) {
			t.Parallel()
			callsAmongLookAlikes(t, tc.driver, hostile.Paths[tc.path], tc.plpgsql)
		})
	}
}

func callsAmongLookAlikes(t *testing.T, driver, path string, plpgsql bool) {
	role := pgtest.Shared(t).NewRole(t)
	admin := pgtest.Shared(t).NewDB(t)
	hostile.Install(t, admin)
	db := sqltest.Open(t, "pgx", admin)
	sqltest.Exec(t, db, "GRANT CREATE ON DATABASE "+testDB{admin: db}.name(t)+" TO "+quoted(role))
	if !plpgsql { // the look-alikes were made by a superuser, and go on
		sqltest.Exec(t, db, "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
	}
	dsn := pgtest.WithParams(pgtest.WithUser(admin, role, pgtest.RolePassword), "search_path", path)
	probe := sqltest.Open(t, driver, dsn)
	for _, control := range []string{"SELECT 1::oid = 1", "SELECT now()"} {
		if _, err := probe.ExecContext(t.Context(), control); sqlstate.Of(err) != hostile.Code && (control == "SELECT 1::oid = 1" || path != "hostile") {
			t.Fatalf("%s: got %v; want a look-alike called, or this test proves nothing", control, err)
		}
	}

	t.Run("waits", func(t *testing.T) { t.Parallel(); waitsAmongLookAlikes(t, driver, admin, dsn) })
	t.Run("fences", func(t *testing.T) { t.Parallel(); fencesAmongLookAlikes(t, driver, admin, dsn) })
	t.Run("guards", func(t *testing.T) { t.Parallel(); guardsAmongLookAlikes(t, driver, dsn) })
}

func waitsAmongLookAlikes(t *testing.T, driver, admin, dsn string) {
	key := advisorylock.KeyOf(t.Name())
	holder := sqltest.Occupy(t, admin, key)
	locker, lasting := locktest.Lasting(advisorylock.Locker{Name: "waits", TTL: time.Minute})
	waiting := map[string]<-chan error{}
	for name, wait := range locktest.Waits {
		db := locktest.Pool(t, driver, dsn)
		waiting[name] = await.Go(func() error { return wait(t.Context(), locker, db, key) })
	}
	for range waiting {
		if w := await.Value(t, lasting); len(w.Holders) == 0 {
			t.Errorf("got %+v of a wait; want the holder named", w)
		}
	}
	asker := locktest.Pool(t, driver, dsn)
	begins, begun := locktest.Beginning()
	var wait *advisorylock.WaitError
	err := locktest.EndWait(t.Context(), nil, begun, func(ctx context.Context) error { return begins.Hold(ctx, asker, key, locktest.None) })
	if !errors.As(err, &wait) || len(wait.Holders) == 0 {
		t.Errorf("got %v; want a WaitError that names the holder", err)
	}
	sqltest.Commit(t, holder)
	for name, returned := range waiting {
		await.NoError(t, name, returned)
	}
}

// The next holder meets a fenced transaction of the last, and has to wait for it.
func fencesAmongLookAlikes(t *testing.T, driver, admin, dsn string) {
	key := advisorylock.KeyOf(t.Name())
	first, second := locktest.Pool(t, driver, dsn), locktest.Pool(t, driver, dsn)
	var next <-chan error
	err := advisorylock.Locker{Name: "fences"}.Hold(t.Context(), first, key, func(ctx context.Context) error {
		tx, err := first.BeginTx(t.Context(), nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // it was committed
		if err := advisorylock.Fence(ctx, tx); err != nil {
			t.Errorf("Fence: %v", err)
		}
		locktest.Terminate(t, sqltest.Open(t, "pgx", admin), key)
		<-ctx.Done()
		if err := advisorylock.TryHold(t.Context(), second, key, locktest.None); !errors.Is(err, advisorylock.ErrNotAcquired) {
			t.Errorf("TryHold beside a fenced transaction: got %v; want ErrNotAcquired", err)
		}
		locker, lasting := locktest.Lasting(advisorylock.Locker{})
		next = await.Go(func() error {
			return locker.Hold(t.Context(), second, key, locktest.None)
		})
		if w := await.Value(t, lasting); len(w.Holders) == 0 {
			t.Errorf("got %+v of the wait at the fence; want the transaction named", w)
		}
		return tx.Commit()
	})
	if !errors.Is(err, advisorylock.ErrLost) {
		t.Errorf("got %v; want ErrLost", err)
	}
	await.NoError(t, "the next holder", next)
}

func guardsAmongLookAlikes(t *testing.T, driver, dsn string) {
	db := locktest.Pool(t, driver, dsn)
	done := false
	upToDate := func(context.Context, *sql.DB) (bool, error) { return done, nil }
	migrate := func(context.Context, *sql.DB) error { done = true; return nil }
	for name, guard := range map[string]schemaguard.Guard{
		"plain": {}, "SkipIfExists": {SkipIfExists: true}, "Serialize": {Serialize: true}, "UpToDate": {UpToDate: upToDate},
		"Once": {Once: "build 1"},
	} {
		done = false
		if err := guard.Ensure(t.Context(), db, "app", migrate); err != nil || !done {
			t.Errorf("%s: got %v, migrated %t", name, err, done)
		}
	}
	asked := 0
	guard := schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) { asked++; return asked > 2, nil }}
	if err := guard.Await(t.Context(), db, "app"); err != nil {
		t.Errorf("Await: %v", err)
	}
}
