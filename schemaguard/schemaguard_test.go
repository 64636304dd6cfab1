//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// TestMain sees to it that all tests together leave no goroutine behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := goroutines(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// goroutines returns the stacks of all other goroutines of this module and of
// database/sql, when they have had plenty of time to end.
func goroutines() string {
	var left []string
	for range 100 {
		buf := make([]byte, 1<<20)
		stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		left = slices.DeleteFunc(stacks[1:], func(s string) bool {
			return !strings.Contains(s, "bootlock/bootlock/") && !strings.Contains(s, "database/sql.")
		})
		if len(left) == 0 {
			return ""
		}
		time.Sleep(50 * time.Millisecond)
	}
	return strings.Join(left, "\n\n")
}

// fixture is one process: a pool on a fake server, and witnesses of what is
// done with it.
type fixture struct {
	*recdriver.Driver
	db    *sql.DB
	rec   locktrace.Recorder
	there bool // what a look at pg_namespace finds
}

// newFixture returns a fixture with a server of its own.
func newFixture(t testing.TB) *fixture { return newProcess(t, recdriver.New()) }

// newProcess returns a fixture whose pool is of one connection. When the test
// ends nothing may be in use, open or locked any more.
func newProcess(t testing.TB, d *recdriver.Driver) *fixture {
	t.Helper()
	f := &fixture{Driver: d, db: d.OpenDB()}
	f.db.SetMaxOpenConns(1)
	d.OnExec(func(c recdriver.Call) (int64, error) {
		if strings.Contains(c.Query, "pg_namespace") && !f.there {
			return 0, nil
		}
		return 1, nil
	})
	t.Cleanup(func() {
		if n := f.db.Stats().InUse; n != 0 {
			t.Errorf("%d connections are still in use", n)
		}
		if err := f.db.Close(); err != nil {
			t.Error(err)
		}
		if n := d.Open(); n != 0 {
			t.Errorf("%d connections are still open", n)
		}
		if held, waiting := d.Server().Held(), d.Server().Waiting(); len(held)+len(waiting) > 0 {
			t.Errorf("locks held %v, waited for %v", held, waiting)
		}
	})
	return f
}

// ensure runs g on the schema app, traced, with a migrate that does nothing.
func (f *fixture) ensure(g schemaguard.Guard) error {
	return f.ensureWith(context.Background(), g, func(context.Context, *sql.DB) error { return nil })
}

func (f *fixture) ensureWith(ctx context.Context, g schemaguard.Guard, migrate func(context.Context, *sql.DB) error) error {
	g.Trace = f.rec.Trace()
	return g.Ensure(ctx, f.db, "app", migrate)
}

// sent lists what the server was sent. Its own words for BEGIN and the like.
func (f *fixture) sent() []string { return texts(f.Calls()) }

func texts(calls []recdriver.Call) []string {
	var texts []string
	for _, c := range calls {
		switch c.Kind {
		case recdriver.Connect, recdriver.Take, recdriver.Release, recdriver.Close:
		case recdriver.Exec:
			texts = append(texts, c.Query)
		default: // any other protocol than the simple one stands out
			texts = append(texts, strings.TrimSpace(strings.ToUpper(string(c.Kind))+" "+c.Query))
		}
	}
	return texts
}

func (f *fixture) wantOrder(t testing.TB, want string) {
	t.Helper()
	if got := f.rec.String(); got != want {
		t.Errorf("order\ngot  %s\nwant %s", got, want)
	}
}

func wantSent(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("sent\ngot  %q\nwant %q", got, want)
	}
}

// wantStep checks that err says that Ensure of app failed at step.
func wantStep(t testing.TB, err error, step locktrace.Step) {
	t.Helper()
	var failed *locktrace.StepError
	if !errors.As(err, &failed) {
		t.Fatalf("got error %v; want a StepError", err)
	}
	if failed.Op != "schemaguard.Ensure" || failed.Name != "app" || failed.Step != step {
		t.Errorf("got a failure of %s %q at %q; want one of schemaguard.Ensure \"app\" at %q", failed.Op, failed.Name, failed.Step, step)
	}
	if want := "schemaguard.Ensure app: " + string(step) + ": "; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got error %q; want it to begin with %q", err, want)
	}
}

// KeyFor("app"), as the tests in name_test.go pin it.
const (
	lockApp = "SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock(-7534435102854613731) " +
		"THEN (SELECT 1 FROM (SELECT pg_catalog.pg_advisory_xact_lock(-7534435102854613731)) taken) ELSE 2 END)"
	createApp = `CREATE SCHEMA IF NOT EXISTS "app"`
	lookApp   = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'app'"
)

// Users freeze this list in tests of their own, with sqlmock for instance: one
// statement more breaks them all.
func TestStatements(t *testing.T) {
	t.Parallel()
	bootstrap := func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "CREATE TABLE app.t ()")
		return err
	}
	for name, test := range map[string]struct {
		guard schemaguard.Guard
		there bool
		want  []string
	}{
		"zero":       {schemaguard.Guard{}, false, []string{"BEGIN", lockApp, createApp, "COMMIT"}},
		"zero, warm": {schemaguard.Guard{}, true, []string{"BEGIN", lockApp, createApp, "COMMIT"}},
		"owner": {
			schemaguard.Guard{Owner: `Bob "the" owner`},
			false,
			[]string{"BEGIN", lockApp, createApp + ` AUTHORIZATION "Bob ""the"" owner"`, "COMMIT"},
		},
		"bootstrap": {
			schemaguard.Guard{Bootstrap: bootstrap},
			false,
			[]string{"BEGIN", lockApp, createApp, "CREATE TABLE app.t ()", "COMMIT"},
		},
		"skip, there":                 {schemaguard.Guard{SkipIfExists: true}, true, []string{lookApp}},
		"skip, there, with bootstrap": {schemaguard.Guard{SkipIfExists: true, Bootstrap: bootstrap}, true, []string{lookApp}},
		"skip, not there": {
			schemaguard.Guard{SkipIfExists: true},
			false,
			[]string{lookApp, "BEGIN", lockApp, createApp, "COMMIT"},
		},
		"key": {
			schemaguard.Guard{Key: 42},
			false,
			[]string{"BEGIN", strings.ReplaceAll(lockApp, "-7534435102854613731", "42"), createApp, "COMMIT"},
		},
		"ttl": {
			schemaguard.Guard{TTL: 2500 * time.Millisecond},
			false,
			[]string{"BEGIN", "SET LOCAL idle_in_transaction_session_timeout = '2500ms'; " + lockApp, createApp, "COMMIT"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.there = test.there
			if err := f.ensure(test.guard); err != nil {
				t.Fatal(err)
			}
			wantSent(t, f.sent(), test.want...)
			for _, c := range f.Calls() {
				if c.Kind == recdriver.Begin && c.Isolation != sql.LevelReadCommitted {
					t.Errorf("began with isolation level %v; want READ COMMITTED, whatever the database's default", c.Isolation)
				}
			}
		})
	}
}

// The pool is of one connection: a migrate that ran before release would hang
// for ever.
func TestOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	err := f.ensureWith(t.Context(), schemaguard.Guard{}, func(ctx context.Context, db *sql.DB) error {
		if got, want := f.String(), "connect > begin > exec > exec > commit > release"; got != want {
			t.Errorf("before migrate\ngot  %s\nwant %s", got, want)
		}
		if n := db.Stats().InUse; n != 0 {
			t.Errorf("%d connections in use during migrate; want 0", n)
		}
		_, err := db.ExecContext(ctx, "CREATE TABLE app.t ()")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.wantOrder(t, "connect > begin > lock > create schema > commit > release > migrate")
	if got, want := f.String(), "connect > begin > exec > exec > commit > release > take > exec > release"; got != want {
		t.Errorf("driver\ngot  %s\nwant %s", got, want)
	}
}

func TestEnsureIsTheZeroGuards(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var got *sql.DB
	err := schemaguard.Ensure(t.Context(), f.db, "app", func(_ context.Context, db *sql.DB) error {
		got = db
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got != f.db {
		t.Error("migrate was not called with the pool")
	}
	wantSent(t, f.sent(), "BEGIN", lockApp, createApp, "COMMIT")
}

// migrate is left out if it is nil, and with it what is only there for it.
func TestNilMigrate(t *testing.T) {
	t.Parallel()
	notDone := func(context.Context, *sql.DB) (bool, error) { return false, nil }
	for name, g := range map[string]schemaguard.Guard{
		"zero": {}, "serialize": {Serialize: true}, "up to date": {UpToDate: notDone},
	} {
		f := newFixture(t)
		if err := f.ensureWith(t.Context(), g, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantSent(t, f.sent(), "BEGIN", lockApp, createApp, "COMMIT")
	}
}

func TestNilArguments(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for want, call := range map[string]func(){
		"schemaguard.Ensure: nil context": func() { _ = schemaguard.Ensure(nil, f.db, "app", nil) }, //nolint:staticcheck // on purpose
		"schemaguard.Ensure: nil *sql.DB": func() { _ = schemaguard.Ensure(t.Context(), nil, "app", nil) },

		"schemaguard.Migrate: nil context": func() { _ = schemaguard.Migrate(nil, f.db, "app", nil) }, //nolint:staticcheck // on purpose
		"schemaguard.Migrate: nil *sql.DB": func() { _ = schemaguard.Migrate(t.Context(), nil, "app", nil) },
	} {
		if got := recovered(call); got != want {
			t.Errorf("got panic %v; want %q", got, want)
		}
	}
}

func recovered(fn func()) (v any) {
	defer func() { v = recover() }()
	fn()
	return nil
}

// migrate's error is neither hidden nor mistaken for one of the steps before.
func TestMigrateFails(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	f := newFixture(t)
	err := f.ensureWith(t.Context(), schemaguard.Guard{}, func(context.Context, *sql.DB) error { return boom })
	wantStep(t, err, locktrace.Migrate)
	if !errors.Is(err, boom) {
		t.Errorf("got error %v; want it to wrap migrate's", err)
	}
	f.wantOrder(t, "connect > begin > lock > create schema > commit > release > migrate!")
}

// A server that ends the wait for the lock, or a driver that fails in it, is no
// reason to go on without it.
func TestMigrateIsNotCalledAfterAFailure(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for step, hook := range map[locktrace.Step]func(context.Context, *recdriver.Call) error{
		locktrace.Connect:      recdriver.FailOn(recdriver.Connect, "", 0, boom),
		locktrace.Begin:        recdriver.FailOn(recdriver.Begin, "", 0, boom),
		locktrace.Lock:         recdriver.FailOn(recdriver.Exec, "advisory", 0, boom),
		locktrace.CreateSchema: recdriver.FailOn(recdriver.Exec, "CREATE", 0, boom),
		locktrace.Commit:       recdriver.FailOn(recdriver.Commit, "", 0, boom),
	} {
		f := newFixture(t)
		f.OnCall(hook)
		err := f.ensureWith(t.Context(), schemaguard.Guard{}, func(context.Context, *sql.DB) error {
			t.Errorf("migrate was called after %s failed", step)
			return nil
		})
		wantStep(t, err, step)
		if !errors.Is(err, boom) {
			t.Errorf("got error %v; want it to wrap the driver's", err)
		}
	}
}

func TestEventsSayWhat(t *testing.T) {
	t.Parallel()
	key := schemaguard.KeyFor("app")
	notDone := func(context.Context, *sql.DB) (bool, error) { return false, nil }
	for name, test := range map[string]struct {
		guard      schemaguard.Guard
		key, lease advisorylock.Key
	}{
		"zero":      {schemaguard.Guard{SkipIfExists: true}, key, 0},
		"key":       {schemaguard.Guard{Key: 42}, 42, 0},
		"serialize": {schemaguard.Guard{Serialize: true, Key: 42}, 42, schemaguard.MigrateKey(42)},
		"once":      {schemaguard.Guard{UpToDate: notDone}, key, schemaguard.MigrateKey(key)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.db.SetMaxOpenConns(2)
			if err := f.ensure(test.guard); err != nil {
				t.Fatal(err)
			}
			locks, created := 0, false
			for _, e := range f.rec.Steps() {
				want := test.key
				if created && e.Step != locktrace.Migrate && e.Step != locktrace.UpToDate {
					want = test.lease
				}
				if e.Name != "app" || e.Key != int64(want) {
					t.Errorf("%s has name %q and key %d; want %q and %d", e.Step, e.Name, e.Key, "app", want)
				}
				work := locktrace.CreateSchema
				if created || e.Step == locktrace.UpToDate {
					work = locktrace.Migrate
				}
				if e.For != work {
					t.Errorf("%s is for %q; want %q", e.Step, e.For, work)
				}
				if e.Step == locktrace.Lock {
					locks++
				}
				created = created || locks == 1 && e.Step == locktrace.Release
			}
			if leases := locks - 1; (leases == 1) != (test.lease != 0) {
				t.Errorf("got %d leases", leases)
			}
		})
	}
}

// The end of ctx while somebody else has the lock: who has it can be found out,
// and nothing was created.
func TestContextEndsWhileWaiting(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]recdriver.Mode{"plain": recdriver.Plain, "pgx": recdriver.PGX, "lib/pq": recdriver.LibPQ} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := recdriver.NewServer()
			f, other := newProcess(t, server.Driver(mode)), newProcess(t, server.Driver(mode))
			cause := errors.New("shutting down")
			err := advisorylock.WithXactLock(t.Context(), other.db, schemaguard.KeyFor("app"), func(context.Context, *sql.Tx) error {
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() {
					<-f.Started(recdriver.Exec, "advisory", 1)
					cancel(cause)
				}()
				err := f.ensureWith(ctx, schemaguard.Guard{}, nil)
				wantStep(t, err, locktrace.Lock)
				var wait *advisorylock.WaitError
				if !errors.As(err, &wait) || wait.Key != schemaguard.KeyFor("app") {
					t.Errorf("got error %v; want a WaitError for the schema's key", err)
				}
				if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
					t.Errorf("got error %v; want it to be the context's, with its cause", err)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			f.wantOrder(t, "connect > begin > lock! > rollback > release")
		})
	}
}

// However a wait or a look is cancelled, the error is the same with every
// driver: pgx gives the context's, lib/pq SQLSTATE 57014.
func TestContextEndsInLook(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]error{
		"pgx": context.Canceled, "lib/pq": recdriver.SQLError{Code: "57014", Message: "canceling statement due to user request"},
	} {
		f := newFixture(t)
		cause := errors.New("shutting down")
		ctx, cancel := context.WithCancelCause(t.Context())
		f.OnCall(func(ctx context.Context, c *recdriver.Call) error {
			if !strings.Contains(c.Query, "pg_namespace") {
				return nil
			}
			cancel(cause)
			<-ctx.Done()
			return answer
		})
		err := f.ensureWith(ctx, schemaguard.Guard{SkipIfExists: true}, nil)
		wantStep(t, err, locktrace.Look)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
			t.Errorf("%s: got error %v; want it to be the context's, with its cause", name, err)
		}
		f.wantOrder(t, "connect > look! > release")
	}
}
