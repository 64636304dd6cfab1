//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"os"
	"regexp"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// bubble runs test, in parallel, on a clock that moves only when every goroutine waits.
// A goroutine that the test leaves behind fails it.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	watchdog := time.AfterFunc(time.Minute, func() {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		panic(t.Name() + ": the clock of the bubble stands still")
	})
	defer watchdog.Stop()
	synctest.Test(t, test)
}

// each runs test once per entry of tests, in bubbles.
func each[T any](t *testing.T, tests map[string]T, test func(t *testing.T, test T)) {
	t.Helper()
	t.Parallel()
	for name, row := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) { test(t, row) })
		})
	}
}

// world is a database: its locks, and of the schema app as much as package schemaguard
// asks for. What a transaction changes is there when it is committed.
type world struct {
	*recdriver.Server
	mu     sync.Mutex
	there  bool            // the schema is, without the table of Once
	table  bool            // the table is
	ran    map[string]bool // its rows
	denied string          // the right to the table that the role does not have
}

func newWorld() *world {
	w := &world{Server: recdriver.NewServer(), ran: map[string]bool{}}
	w.OnCommit(w.commit)
	return w
}

const (
	onceApp   = `"app".bootlock_once`
	insertApp = "INSERT INTO " + onceApp + " (name) VALUES ('"
	insertEnd = "') ON CONFLICT DO NOTHING"
)

func (w *world) commit(statements []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range statements {
		if strings.Contains(s, "CREATE TABLE IF NOT EXISTS "+onceApp) {
			w.table = true
		}
		if name, ok := strings.CutPrefix(s, insertApp); ok {
			w.ran[strings.TrimSuffix(name, insertEnd)] = true
		}
	}
}

func (w *world) exec(c recdriver.Call) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	yes := func(is bool) (int64, error) {
		if is {
			return 1, nil
		}
		return 0, nil
	}
	name, asks := strings.CutPrefix(c.Query, "SELECT 1 FROM "+onceApp+" WHERE name OPERATOR(pg_catalog.=) '")
	switch {
	case strings.Contains(c.Query, "pg_class"):
		return yes(w.table && (w.denied == "" || !strings.Contains(c.Query, "'"+w.denied+"'")))
	case asks && !w.table:
		return 0, recdriver.SQLError{Code: "42P01", Message: "relation " + onceApp + " does not exist"}
	case asks && w.denied == "SELECT":
		return 0, recdriver.SQLError{Code: "42501", Message: "permission denied for table bootlock_once"}
	case asks:
		return yes(w.ran[strings.TrimSuffix(name, "'")])
	case strings.Contains(c.Query, "pg_namespace"):
		return yes(w.there || w.table)
	}
	return 1, nil
}

// set says whether the table is there, and with which rows.
func (w *world) set(table bool, ran ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.table, w.ran = table, map[string]bool{}
	for _, name := range ran {
		w.ran[name] = true
	}
}

func (w *world) wantRan(t *testing.T, names ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := slices.Sorted(maps.Keys(w.ran)); !slices.Equal(got, names) {
		t.Errorf("recorded %q; want %q", got, names)
	}
}

// fixture is one process: a pool, and witnesses of what is done with it.
type fixture struct {
	*recdriver.Driver
	world *world
	db    *sql.DB
	rec   locktrace.Recorder
}

func newFixture(t *testing.T, conns int) *fixture {
	t.Helper()
	return newWorld().process(t, recdriver.Plain, conns)
}

// process returns a process with a pool of so many connections. When the test ends
// nothing may be in use, open or locked any more.
func (w *world) process(t *testing.T, mode recdriver.Mode, conns int) *fixture {
	t.Helper()
	d := w.Driver(mode)
	f := &fixture{Driver: d, world: w, db: d.OpenDB()}
	f.db.SetMaxOpenConns(conns)
	d.OnExec(w.exec)
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
		if held, waiting := w.Held(), w.Waiting(); len(held)+len(waiting) > 0 {
			t.Errorf("locks held %v, waited for %v", held, waiting)
		}
	})
	return f
}

var nothing = func(context.Context, *sql.DB) error { return nil }

func notCalled(t *testing.T) func(context.Context, *sql.DB) error {
	return func(context.Context, *sql.DB) error {
		t.Error("migrate was called")
		return nil
	}
}

// ensure runs g on the schema app, traced, with a migrate that does nothing.
func (f *fixture) ensure(t *testing.T, g schemaguard.Guard) error {
	return f.ensureWith(t.Context(), g, nothing)
}

func bootstrapGrant(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, grantApp)
	return err
}

func migrateAll(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE app.t ()")
	return err
}

func (f *fixture) ensureWith(ctx context.Context, g schemaguard.Guard, migrate func(context.Context, *sql.DB) error) error {
	if g.Trace == nil {
		g.Trace = f.rec.Trace()
	}
	return g.Ensure(ctx, f.db, "app", migrate)
}

var idleLimit = regexp.MustCompile(`'\d+ms'`)

// sent lists what the server was sent. BEGIN and the like in its own words, and the
// statements that take a lock by the name of that, with its TTL if it has one of its own.
func (f *fixture) sent() []string {
	var sent []string
	for _, c := range f.Calls() {
		switch {
		case c.Kind == recdriver.Connect, c.Kind == recdriver.Take, c.Kind == recdriver.Release, c.Kind == recdriver.Close:
		case c.Kind != recdriver.Exec: // any other protocol than the simple one stands out
			sent = append(sent, strings.TrimSpace(strings.ToUpper(string(c.Kind))+" "+c.Query))
		case c.Query == lockApp:
			sent = append(sent, "lock")
		case strings.Contains(c.Query, "pg_advisory_xact_lock("+migrateApp.String()+")"):
			sent = append(sent, strings.TrimSuffix("lease "+idleLimit.FindString(c.Query), " '30000ms'"))
		default:
			sent = append(sent, c.Query)
		}
	}
	return sent
}

func (f *fixture) wantOrder(t *testing.T, want string) {
	t.Helper()
	if got := f.rec.String(); got != want {
		t.Errorf("order\ngot  %s\nwant %s", got, want)
	}
}

func (f *fixture) wantSent(t *testing.T, want ...string) {
	t.Helper()
	if got := f.sent(); !slices.Equal(got, want) {
		t.Errorf("sent\ngot  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// wantStep checks that err says that Ensure of app failed at step, because of cause.
func wantStep(t *testing.T, err error, step locktrace.Step, cause error) {
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
	if !errors.Is(err, cause) {
		t.Errorf("got error %v; want it to wrap %v", err, cause)
	}
}

// wantText checks that err says all of this.
func wantText(t *testing.T, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got error %v; want %q in it", err, text)
		}
	}
}

// KeyFor("app"), as the tests in name_test.go pin it.
const (
	lockApp = "SELECT pg_catalog.pg_advisory_xact_lock(-7534435102854613731) FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_is_in_recovery() THEN 2" +
		" WHEN pg_catalog.pg_try_advisory_xact_lock(-7534435102854613731) THEN 1 END)"
	grantApp  = "GRANT USAGE ON SCHEMA app TO bob"
	createApp = `CREATE SCHEMA IF NOT EXISTS "app"`
	lookApp   = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'app'"
)

var migrateApp = schemaguard.MigrateKey(schemaguard.KeyFor("app"))

var errBoom = errors.New("boom")

const (
	created = "connect > begin > lock > create schema > commit > release"
	leased  = "connect > begin > lock > migrate > commit > release"
	waited  = "connect > begin > lock > rollback > release" // until another process had migrated
)

func answer(done bool) func(context.Context, *sql.DB) (bool, error) {
	return func(context.Context, *sql.DB) (bool, error) { return done, nil }
}

// holding runs fn while another process has the lock of key.
func (w *world) holding(t *testing.T, key advisorylock.Key, fn func()) {
	t.Helper()
	other := w.process(t, recdriver.Plain, 2)
	err := advisorylock.Hold(context.Background(), other.db, key, func(context.Context) error {
		fn()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
