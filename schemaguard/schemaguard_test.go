//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// Users freeze this list in tests of their own, with sqlmock for instance: one
// statement more breaks them all.
func TestStatements(t *testing.T) {
	type test struct {
		guard schemaguard.Guard
		there bool
		want  []string
	}
	each(t, map[string]test{
		"zero": {schemaguard.Guard{}, true, []string{"BEGIN", "lock", createApp, "COMMIT"}},
		"owner": { // who may be a predefined role
			schemaguard.Guard{Owner: "pg_database_owner"},
			false,
			[]string{"BEGIN", "lock", createApp + ` AUTHORIZATION "pg_database_owner"`, "COMMIT"},
		},
		"bootstrap": {
			schemaguard.Guard{Bootstrap: bootstrapGrant},
			false,
			[]string{"BEGIN", "lock", createApp, grantApp, "COMMIT"},
		},
		"skip, there": {schemaguard.Guard{SkipIfExists: true, Bootstrap: bootstrapGrant}, true, []string{lookApp}},
		"key": {
			schemaguard.Guard{Key: 42},
			false,
			[]string{"BEGIN", strings.ReplaceAll(lockApp, "-7534435102854613731", "42"), createApp, "COMMIT"},
		},
		"ttl": {
			schemaguard.Guard{TTL: 2500 * time.Millisecond, Serialize: true},
			false,
			[]string{
				"BEGIN", strings.Replace(lockApp, " FROM", ", pg_catalog.set_config('idle_in_transaction_session_timeout', '2500ms', true) FROM", 1), createApp, "COMMIT",
				"BEGIN", "lease '2500ms'", "SELECT 1", "COMMIT",
			},
		},
	}, func(t *testing.T, test test) {
		f := newFixture(t, 2)
		f.world.there = test.there
		if err := f.ensure(t, test.guard); err != nil {
			t.Fatal(err)
		}
		f.wantSent(t, test.want...)
		for _, c := range f.Calls() {
			if c.Kind == recdriver.Begin && c.Isolation != sql.LevelReadCommitted {
				t.Errorf("began with isolation level %v; want READ COMMITTED, whatever the database's default", c.Isolation)
			}
		}
	})
}

// migrate may be nil, and what is only there for it is left out then.
func TestNilMigrate(t *testing.T) {
	each(t, map[string]schemaguard.Guard{
		"zero": {}, "serialize": {Serialize: true}, "up to date": {UpToDate: answer(false)}, "once": {Once: "v1"},
	}, func(t *testing.T, g schemaguard.Guard) {
		f := newFixture(t, 1)
		if err := f.ensureWith(t.Context(), g, nil); err != nil {
			t.Error(err)
		}
		if g.Once == "" {
			f.wantSent(t, "BEGIN", "lock", createApp, "COMMIT")
		} else { // the table is there then, the row is not
			f.wantSent(t, askV1, "BEGIN", "lock", createApp+"; "+tableApp, "COMMIT")
		}
		f.world.wantRan(t)
	})
}

func TestNilArguments(t *testing.T) {
	t.Parallel()
	db := recdriver.New().OpenDB()
	defer db.Close()
	asks := schemaguard.Guard{UpToDate: answer(true)}
	for want, call := range map[string]func(){
		"schemaguard.Ensure: nil context":                          func() { _ = schemaguard.Ensure(nil, db, "app", nil) }, //nolint:staticcheck // on purpose
		"schemaguard.Ensure: nil *sql.DB":                          func() { _ = schemaguard.Ensure(t.Context(), nil, "app", nil) },
		"schemaguard.Migrate: nil context":                         func() { _ = schemaguard.Migrate(nil, db, "app", nil) }, //nolint:staticcheck // on purpose
		"schemaguard.Migrate: nil *sql.DB":                         func() { _ = schemaguard.Migrate(t.Context(), nil, "app", nil) },
		"schemaguard.Await: nil context":                           func() { _ = asks.Await(nil, db, "app") }, //nolint:staticcheck // on purpose
		"schemaguard.Await: nil *sql.DB":                           func() { _ = asks.Await(t.Context(), nil, "app") },
		"schemaguard.Await: neither Guard.Once nor Guard.UpToDate": func() { _ = schemaguard.Guard{}.Await(t.Context(), db, "app") },
	} {
		if got := recovered(call); got != want {
			t.Errorf("got panic %v; want %q", got, want)
		}
	}
}

// Of each event, what it is for, the key and the time; the same one after the other
// count once.
func TestEventsSayWhat(t *testing.T) {
	const (
		schema = "create schema 42"
		lease  = "migrate -8123672357958676586"
		work   = "migrate 42"
	)
	type test struct {
		guard schemaguard.Guard
		want  []string
	}
	each(t, map[string]test{
		"zero":       {schemaguard.Guard{SkipIfExists: true}, []string{schema, work}},
		"serialize":  {schemaguard.Guard{Serialize: true}, []string{schema, lease, work, lease}},
		"up to date": {schemaguard.Guard{UpToDate: answer(false)}, []string{work, schema, lease, work, lease}},
		"once":       {schemaguard.Guard{Once: "v1"}, []string{work, schema, lease, work, lease}},
	}, func(t *testing.T, test test) {
		f := newFixture(t, 3)
		test.guard.Key = 42
		err := f.ensureWith(t.Context(), test.guard, func(context.Context, *sql.DB) error { time.Sleep(time.Minute); return nil })
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range f.rec.Steps() {
			got = append(got, fmt.Sprintf("%s %d", e.For, e.Key))
			if e.Name != "app" || e.Duration != 0 && e.Step != locktrace.Migrate || e.Duration != time.Minute && e.Step == locktrace.Migrate {
				t.Errorf("got %+v; want the name, and a minute of migrate", e)
			}
		}
		if got = slices.Compact(got); !slices.Equal(got, test.want) {
			t.Errorf("got %q; want %q", got, test.want)
		}
	})
}

// The end of ctx while another process has a lock, of the schema or of migrate: the
// error says which and how long, and migrate is not called.
func TestContextEndsWhileWaiting(t *testing.T) {
	type test struct {
		guard schemaguard.Guard
		key   advisorylock.Key
		order string
	}
	const failed = "connect > begin > lock! > rollback > release"
	each(t, map[string]test{
		"schema":     {schemaguard.Guard{}, schemaguard.KeyFor("app"), failed},
		"serialize":  {schemaguard.Guard{Serialize: true}, migrateApp, created + " > " + failed},
		"up to date": {schemaguard.Guard{UpToDate: answer(false)}, migrateApp, "up to date > " + created + " > " + failed},
		"once":       {schemaguard.Guard{Once: "v1"}, migrateApp, "up to date > " + created + " > " + failed},
	}, func(t *testing.T, test test) {
		f := newFixture(t, 2)
		f.world.holding(t, test.key, func() {
			cause := errors.New("shutting down")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, cause)
			defer cancel()
			err := f.ensureWith(ctx, test.guard, notCalled(t))
			wantStep(t, err, locktrace.Lock, cause)
			wantStep(t, err, locktrace.Lock, context.DeadlineExceeded)
			var wait *advisorylock.WaitError
			if !errors.As(err, &wait) || wait.Key != test.key || wait.Waited != 3*time.Second {
				t.Errorf("got error %v; want a WaitError for key %d after 3 s", err, test.key)
			}
		})
		f.wantOrder(t, test.order)
	})
}

// Under a lock the end of the context may mean that the lock is lost, without it
// that nobody waits for migrate any more.
func TestMigrateIsNotCalledAfterTheEnd(t *testing.T) {
	each(t, map[string]schemaguard.Guard{"plain": {}, "Serialize": {Serialize: true}}, func(t *testing.T, guard schemaguard.Guard) {
		f := newFixture(t, 2)
		ctx, cancel := context.WithCancel(t.Context())
		guard.Trace = &locktrace.Trace{Done: func(_ context.Context, e locktrace.Event) {
			if e.Step == locktrace.Release || guard.Serialize && e.Step == locktrace.Lock && e.For == locktrace.Migrate {
				cancel()
			}
		}}
		err := f.ensureWith(ctx, guard, notCalled(t))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v; want the end of the context", err)
		}
	})
}

// A pool may be full of connections that the server closed long ago. Whatever is sent
// first finds the next one.
func TestStaleConnectionsAreReplaced(t *testing.T) {
	each(t, map[string]schemaguard.Guard{"Once": {Once: "v1"}, "SkipIfExists": {SkipIfExists: true}}, func(t *testing.T, guard schemaguard.Guard) {
		for _, mode := range []recdriver.Mode{recdriver.Plain, recdriver.PGX, recdriver.LibPQ} {
			f := newWorld().process(t, mode, 3)
			f.world.set(true, "v1")
			f.db.SetMaxIdleConns(3)
			var conns [3]*sql.Conn
			for i := range conns {
				conns[i], _ = f.db.Conn(t.Context())
			}
			for _, c := range conns {
				c.Close()
			}
			f.KillAll()
			if err := f.ensure(t, guard); err != nil {
				t.Errorf("mode %v: got %v; want it to try each of the three, and then a new one", mode, err)
			}
		}
	})
}
