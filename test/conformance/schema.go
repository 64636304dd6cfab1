package conformance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

var schemaPromises = []promise{
	{"Ensure: the order, and nothing prepared", ensureOrder},
	{"Ensure: nobody loses the race", ensureRace},
	{"Ensure: nor beside unguarded processes", ensureMixed},
	{"Ensure: GRANT and extensions in Bootstrap", ensureBootstrap},
	{"Ensure: a failure at any step", ensureFails},
	{"Ensure: a commit whose answer is lost", commitUnknown},
	{"Ensure: names as they are", ensureNames},
	{"Ensure: refused names send nothing", refusedNames},
	{"Ensure: SkipIfExists", skipIfExists},
	{"Ensure: a role without rights", weakRole},
	{"Ensure: a pool of one", ensurePoolOfOne},
	{"Serialize: one migrates at a time", serialize},
	{"UpToDate: one migrates for all", upToDate},
	{"UpToDate: another one, if the winner fails", winnerFails},
	{"UpToDate: what does not exist yet is no", notThereYet},
	{"Once: one migrates for all, later starts are one round trip", once},
	{"Once: another one, if the winner fails", onceWinnerFails},
	{"Once: two builds run once each", twoBuilds},
	{"Once: a table that migrate drops is made again", onceDropped},
	{"Await: a right that comes with the migration", awaitsRight},
}

const hasSchema = "SELECT count(*) FROM pg_namespace WHERE nspname = '%s'"

func schemaExists(t *testing.T, admin *sql.DB, schema string) bool {
	t.Helper()
	return sqltest.Ask[int](t, admin, fmt.Sprintf(hasSchema, strings.ReplaceAll(schema, "'", "''"))) == 1
}

func ensureOrder(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	rec, db := tg.record(t)
	other, admin := tg.open(t), tg.admin(t)
	var r locktrace.Recorder
	migrated := false
	err := schemaguard.Guard{Trace: r.Trace()}.Ensure(ctx, db, "in_order", func(ctx context.Context, got *sql.DB) error {
		migrated = true
		if got != db || db.Stats().InUse != 0 {
			t.Errorf("got %d connections in use during migrate; want the pool, and none held", db.Stats().InUse)
		}
		if !schemaExists(t, admin, "in_order") {
			t.Error("got no schema during migrate; want it committed")
		}
		return advisorylock.TryWithXactLock(ctx, other, schemaguard.KeyFor("in_order"), nothing) // free
	})
	if err != nil || !migrated {
		t.Fatalf("got %v, migrated %v; want nil, true", err, migrated)
	}
	if got, want := rec.String(), "connect > begin > exec > exec > commit > release"; got != want {
		t.Errorf("got driver calls %q; want %q", got, want)
	}
	wantOrder(t, &r, "connect > begin > lock > create schema > commit > release > migrate")
}

// ensureRace: 16 sessions × 50 rounds of CREATE SCHEMA IF NOT EXISTS on a fresh
// name fail 94 times with 23505, which the control group must show as well.
func ensureRace(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n, rounds = 8, 10
	dbs := warmed(ctx, t, tg, n)
	var migrated atomic.Int32
	for round := range rounds {
		schema := fmt.Sprintf("race_%d", round)
		noErrors(t, together(n, func(i int) error {
			return schemaguard.Ensure(ctx, dbs[i], schema, func(context.Context, *sql.DB) error {
				migrated.Add(1)
				return nil
			})
		}))
	}
	if got := migrated.Load(); got != n*rounds {
		t.Errorf("got %d calls of migrate; want %d", got, n*rounds)
	}

	lost := func(round int) bool {
		for _, err := range together(n, func(i int) error {
			_, err := dbs[i].ExecContext(ctx, fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS unguarded_%d", round))
			return err
		}) {
			if sqlstate.CatalogIndex(err) == "pg_namespace_nspname_index" {
				return true
			}
		}
		return false
	}
	for round := 0; !lost(round); round++ {
		if round == 500 {
			t.Fatalf("control: got no clash in %d rounds without the guard; want one", round)
		}
	}
}

// warmed opens n pools with a connection each, so that a barrier lets statements
// race and not the opening of connections.
func warmed(ctx context.Context, t *testing.T, tg Target, n int) []*sql.DB {
	t.Helper()
	dbs := make([]*sql.DB, n)
	for i := range dbs {
		dbs[i] = tg.open(t)
		sqltest.Exec(t, dbs[i], "SELECT 1")
	}
	return dbs
}

// ensureMixed: in a rolling deploy the processes of the old version take no lock,
// and the guarded ones clash with them all the same: the lock alone is not enough.
func ensureMixed(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	db, admin := tg.open(t), tg.admin(t)
	old, err := admin.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Rollback() //nolint:errcheck // after the commit it does nothing
	if _, err := old.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS mixed"); err != nil {
		t.Fatal(err)
	}
	var r locktrace.Recorder
	ensured := make(chan error, 1)
	go func() { ensured <- schemaguard.Guard{Trace: r.Trace()}.Ensure(ctx, db, "mixed", nil) }()
	await.True(t, "the guarded process has found no schema and waits for the other", func() bool {
		return sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%SCHEMA%mixed%' AND pid <> pg_backend_pid()") == 1
	})
	if err := old.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-ensured; err != nil {
		t.Errorf("got %v; want the clash tried again", err)
	}
	wantOrder(t, &r, "connect > begin > lock > create schema! > rollback > release > connect > begin > lock > create schema > commit > release")
}

// ensureBootstrap: 67 of 320 concurrent GRANTs fail with XX000, tuple
// concurrently updated; and CREATE EXTENSION IF NOT EXISTS, CREATE TYPE and
// CREATE OR REPLACE FUNCTION race like CREATE SCHEMA.
func ensureBootstrap(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 6
	dbs := warmed(ctx, t, tg, n)
	guard := schemaguard.Guard{Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `GRANT USAGE ON SCHEMA boot TO PUBLIC;
			CREATE TABLE IF NOT EXISTS boot.migrations (version int PRIMARY KEY);
			CREATE OR REPLACE FUNCTION boot.f() RETURNS int LANGUAGE sql AS 'SELECT 1'`)
		return err
	}}
	for range 3 {
		noErrors(t, together(n, func(i int) error { return guard.Ensure(ctx, dbs[i], "boot", nil) }))
	}
	sqltest.Exec(t, dbs[0], "INSERT INTO boot.migrations VALUES (1)")

	failing := schemaguard.Guard{Bootstrap: func(context.Context, *sql.Tx) error { return errOwn }}
	err := failing.Ensure(ctx, dbs[0], "boot_fails", nil)
	wantIs(t, err, errOwn)
	wantStep(t, err, locktrace.Bootstrap)
	if schemaExists(t, tg.admin(t), "boot_fails") {
		t.Error("got the schema; want it rolled back with the failed Bootstrap")
	}
}

func wantStep(t *testing.T, err error, want locktrace.Step) {
	t.Helper()
	var step *locktrace.StepError
	if !errors.As(err, &step) || step.Step != want {
		t.Errorf("got %v; want a StepError of %s", err, want)
	}
}

func ensureFails(t *testing.T, tg Target) {
	for _, c := range []struct {
		step  locktrace.Step
		kind  recdriver.Kind
		query string
		order string
	}{
		{locktrace.Connect, recdriver.Connect, "", "connect!"},
		{locktrace.Begin, recdriver.Begin, "", "connect > begin! > release"},
		{locktrace.Lock, recdriver.Exec, "advisory", "connect > begin > lock! > rollback > release"},
		{locktrace.CreateSchema, recdriver.Exec, "CREATE SCHEMA", "connect > begin > lock > create schema! > rollback > release"},
		{locktrace.Commit, recdriver.Commit, "", "connect > begin > lock > create schema > commit! > release"},
	} {
		t.Run(string(c.step), func(t *testing.T) {
			rec, db := tg.record(t)
			rec.OnCall(recdriver.FailOn(c.kind, c.query, 1, errOwn))
			var r locktrace.Recorder
			schema := "fails_" + strings.ReplaceAll(string(c.step), " ", "_")
			err := schemaguard.Guard{Trace: r.Trace()}.Ensure(tg.ctx(t), db, schema, func(context.Context, *sql.DB) error {
				t.Error("got migrate called; want it left out")
				return nil
			})
			wantIs(t, err, errOwn)
			wantStep(t, err, c.step)
			wantOrder(t, &r, c.order)
			if unknown := strings.Contains(fmt.Sprint(err), "outcome unknown"); unknown != (c.step == locktrace.Commit) {
				t.Errorf("got %v; want the outcome unknown of a commit, and of nothing else", err)
			}
			if err := schemaguard.Ensure(tg.ctx(t), db, schema, nil); err != nil {
				t.Errorf("got %v from the next call; want the lock free and a sound connection", err)
			}
		})
	}
}

func commitUnknown(t *testing.T, tg Target) {
	rec, db := tg.record(t)
	rec.OnCall(recdriver.FailOn(recdriver.Commit, "", 1, recdriver.After(errOwn)))
	err := schemaguard.Ensure(tg.ctx(t), db, "commit_unknown", func(context.Context, *sql.DB) error {
		t.Error("got migrate called; want it left out")
		return nil
	})
	wantIs(t, err, errOwn)
	if !strings.Contains(fmt.Sprint(err), "outcome unknown") || !schemaExists(t, tg.admin(t), "commit_unknown") {
		t.Errorf("got %v; want the outcome unknown, of a commit that did succeed", err)
	}
}

// ensureNames: names are the user's: nothing folds their case, reads a dot in them,
// or runs them.
func ensureNames(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	db, admin := tg.open(t), tg.admin(t)
	names := []string{
		"plain", "Upper", "PG_upper", "select", "public2", "xpg_catalog",
		"with space", " leading and trailing ", "new\nline\ttab",
		"dot.ted", `"."`, `quo"ted`, `"quoted"`, `"`, "apo'strophe", `back\slash`, `back\'both`, `\`,
		"$1", "%s", "$bootlock$", "--", "/* comment */",
		"; DROP SCHEMA plain", `x"; CREATE SCHEMA "pwned"; --`, `x'; CREATE SCHEMA pwned; --`,
		"Größe", "схема", "図式🔒",
		strings.Repeat("x", 63), strings.Repeat("é", 31),
	}
	for _, name := range tg.encodable(t, names) {
		for _, want := range []string{
			"connect > look > release > connect > begin > lock > create schema > commit > release",
			"connect > look > release",
		} {
			var r locktrace.Recorder
			if err := (schemaguard.Guard{SkipIfExists: true, Trace: r.Trace()}).Ensure(ctx, db, name, nil); err != nil {
				t.Errorf("%q: got %v; want nil", name, err)
			}
			wantOrder(t, &r, want)
		}
		if !schemaExists(t, admin, name) {
			t.Errorf("%q: got no such schema; want the name as it is", name)
		}
	}
	if sqltest.Ask[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pwned')") {
		t.Error("got the schema pwned; want names that are not run")
	}
}

// refusedNames: what the server would cut to 63 bytes or refuse.
func refusedNames(t *testing.T, tg Target) {
	rec, db := tg.record(t)
	for _, name := range []string{"", "nul\x00", "pg_mine", "\xff", strings.Repeat("x", 64), strings.Repeat("é", 32)} {
		if err := schemaguard.Ensure(tg.ctx(t), db, name, nil); err == nil {
			t.Errorf("%q: got nil; want an error", name)
		}
	}
	if got := rec.String(); got != "" {
		t.Errorf("got driver calls %q; want none", got)
	}
}

func skipIfExists(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	rec, db := tg.record(t)
	guard := schemaguard.Guard{SkipIfExists: true}
	for range 2 {
		if err := guard.Ensure(ctx, db, "skipped", nil); err != nil {
			t.Fatal(err)
		}
	}
	const want = "connect > exec > release > take > begin > exec > exec > commit > release > take > exec > release"
	if got := rec.String(); got != want {
		t.Errorf("got driver calls %q; want %q", got, want)
	}
}

// weakRole: CREATE SCHEMA IF NOT EXISTS fails with 42501 even if there is nothing
// to create, and processes with least rights did not start.
func weakRole(t *testing.T, tg Target) {
	if tg.Weak == "" {
		t.Skip("not tested: no DSN for a role without rights")
	}
	ctx := tg.ctx(t)
	weak, err := sql.Open(tg.Driver, tg.Weak)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { weak.Close() })

	guards := map[string]schemaguard.Guard{
		"plain":        {},
		"SkipIfExists": {SkipIfExists: true},
		"Bootstrap": {Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS not_mine.migrations (id int)")
			return err
		}},
	}
	for name, guard := range guards {
		err = guard.Ensure(ctx, weak, "not_mine", func(context.Context, *sql.DB) error {
			t.Errorf("%s: got migrate called; want it left out", name)
			return nil
		})
		wantStep(t, err, locktrace.CreateSchema)
		if sqlstate.Of(err) != "42501" || !strings.Contains(fmt.Sprint(err), "GRANT CREATE ON DATABASE") {
			t.Errorf("%s: got %v; want 42501 with advice", name, err)
		}
	}
	admin := tg.admin(t)
	sqltest.Exec(t, admin, "CREATE SCHEMA not_mine")
	for _, name := range []string{"plain", "SkipIfExists", "plain, granted", "SkipIfExists, granted", "Bootstrap, granted"} {
		kind, _, granted := strings.Cut(name, ",")
		if granted {
			sqltest.Exec(t, admin, "GRANT CREATE, USAGE ON SCHEMA not_mine TO "+pgtest.WeakRole)
		}
		guard, migrated := guards[kind], false
		err := guard.Ensure(ctx, weak, "not_mine", func(context.Context, *sql.DB) error { migrated = true; return nil })
		if err != nil || !migrated {
			t.Errorf("%s: got %v, migrated %v; want nil and migrate, the schema is there", name, err, migrated)
		}
	}
	if sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_tables WHERE schemaname = 'not_mine'") != 1 {
		t.Error("got no table of Bootstrap")
	}

	// It may see no more of a holder than its process id, user and application. For
	// the query the server has the text "<insufficient privilege>".
	key := keyOf(t)
	err = advisorylock.WithXactLock(ctx, tg.open(t), key, func(ctx context.Context, _ *sql.Tx) error {
		holders, _ := sessions(ctx, t, weak, key)
		if len(holders) != 1 || holders[0].PID <= 0 || holders[0].User == "" ||
			holders[0].Query != "" || holders[0].State != "" || !holders[0].Since.IsZero() {
			t.Errorf("got holders %+v; want one with its process id, and what may not be seen to be zero", holders)
		}
		begins, begun := beginning()
		err := endWait(tg.ctx(t), func() { await.Value(t, begun) }, waits(begins, weak, key)["WithXactLock"])
		if err == nil || !strings.Contains(err.Error(), holders[0].TerminateSQL()) || strings.Contains(err.Error(), "privilege") {
			t.Errorf("got %v; want the holder's process id, and nothing about privileges", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// ensurePoolOfOne: a migrate that runs before the lock's connection is given back
// hangs for ever here.
func ensurePoolOfOne(t *testing.T, tg Target) {
	db := tg.open(t)
	db.SetMaxOpenConns(1)
	for _, guard := range []schemaguard.Guard{
		{},
		{SkipIfExists: true},
		{Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS pool_of_one.migrations (n int)")
			return err
		}},
	} {
		err := guard.Ensure(tg.ctx(t), db, "pool_of_one", func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback() //nolint:errcheck // after Commit
			if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS pool_of_one.t (n int)"); err != nil {
				return err
			}
			return tx.Commit()
		})
		if err != nil {
			t.Errorf("got %v; want nil", err)
		}
	}
}

func serialize(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 5
	dbs := warmed(ctx, t, tg, n)
	var inside crowd
	noErrors(t, together(n, func(i int) error {
		return schemaguard.Guard{Serialize: true}.Ensure(ctx, dbs[i], "serial", func(ctx context.Context, db *sql.DB) error {
			inside.enter()
			defer inside.leave()
			// River, bun, ent, gorm and sql-migrate fail here without the lock.
			_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS serial.t (n int)")
			return err
		})
	}))
	if most, total := inside.most.Load(), inside.total.Load(); most != 1 || total != n {
		t.Errorf("got %d inside at once, %d in all; want 1, %d", most, total, n)
	}
	var r locktrace.Recorder
	err := schemaguard.Guard{Serialize: true, Trace: r.Trace()}.Ensure(ctx, dbs[0], "serial", func(context.Context, *sql.DB) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	wantOrder(t, &r, "connect > begin > lock > create schema > commit > release > connect > begin > lock > migrate > commit > release")
}

func upToDateGuard(schema string) schemaguard.Guard {
	return schemaguard.Guard{UpToDate: func(ctx context.Context, db *sql.DB) (bool, error) {
		// No query: that would be the driver's prepared statement, and the
		// pooler's trouble, not the library's.
		res, err := db.ExecContext(ctx, "SELECT 1 FROM "+schema+".done")
		if err != nil {
			return false, err
		}
		n, err := res.RowsAffected()
		return n > 0, err
	}}
}

func upToDate(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 6
	dbs := warmed(ctx, t, tg, n)
	guard := upToDateGuard("once")
	var inside crowd
	migrate := func(ctx context.Context, db *sql.DB) error {
		inside.enter()
		defer inside.leave()
		_, err := db.ExecContext(ctx, "CREATE TABLE once.done (n int); INSERT INTO once.done VALUES (1)")
		return err
	}
	noErrors(t, together(n, func(i int) error { return guard.Ensure(ctx, dbs[i], "once", migrate) }))
	if total := inside.total.Load(); total != 1 {
		t.Errorf("got %d calls of migrate; want 1", total)
	}
	var r locktrace.Recorder
	guard.Trace = r.Trace()
	if err := guard.Ensure(ctx, dbs[0], "once", migrate); err != nil {
		t.Error(err)
	}
	wantOrder(t, &r, "up to date")

	// One that has found the work undone, and gets the lock when it is done: it
	// must ask again.
	late := upToDateGuard("late")
	asked := false
	ask := late.UpToDate
	late.UpToDate = func(ctx context.Context, db *sql.DB) (bool, error) {
		if !asked {
			asked = true
			return false, upToDateGuard("late").Ensure(ctx, dbs[1], "late", func(ctx context.Context, db *sql.DB) error {
				_, err := db.ExecContext(ctx, "CREATE TABLE late.done (n int); INSERT INTO late.done VALUES (1)")
				return err
			})
		}
		return ask(ctx, db)
	}
	if err := late.Ensure(ctx, dbs[0], "late", func(context.Context, *sql.DB) error {
		t.Error("got migrate called; want it left out, somebody else was faster")
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func winnerFails(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 4
	dbs := warmed(ctx, t, tg, n)
	guard := upToDateGuard("winner")
	var calls atomic.Int32
	failed := 0
	for _, err := range together(n, func(i int) error {
		return guard.Ensure(ctx, dbs[i], "winner", func(ctx context.Context, db *sql.DB) error {
			if calls.Add(1) == 1 {
				return errOwn
			}
			_, err := db.ExecContext(ctx, "CREATE TABLE winner.done (n int); INSERT INTO winner.done VALUES (1)")
			return err
		})
	}) {
		if errors.Is(err, errOwn) {
			failed++
			wantStep(t, err, locktrace.Migrate)
		} else if err != nil {
			t.Errorf("got %v; want nil", err)
		}
	}
	if failed != 1 || calls.Load() != 2 {
		t.Errorf("got %d failures, %d calls of migrate; want 1 and 2", failed, calls.Load())
	}
}

// notThereYet: a question may be about the very column, function or type that the
// migration makes. As an error it ended every start.
func notThereYet(t *testing.T, tg Target) {
	db, admin := tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE SCHEMA not_yet; CREATE TABLE not_yet.t (n int)")
	for i, c := range []struct{ what, question, migration string }{
		{"schema", "SELECT FROM not_yet_%[1]d.t", "CREATE SCHEMA not_yet_%[1]d; CREATE TABLE not_yet_%[1]d.t (); INSERT INTO not_yet_%[1]d.t DEFAULT VALUES"},
		{"table", "SELECT FROM not_yet.t_%[1]d", "CREATE TABLE not_yet.t_%[1]d (); INSERT INTO not_yet.t_%[1]d DEFAULT VALUES"},
		{"column", "SELECT count(c) FROM not_yet.t", "ALTER TABLE not_yet.t ADD c int"},
		{"function", "SELECT not_yet.f()", "CREATE FUNCTION not_yet.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"},
		{"type", "SELECT NULL::not_yet.c", "CREATE TYPE not_yet.c AS ENUM ('a')"},
	} {
		question, migration := c.question, c.migration
		if strings.Contains(question, "%") {
			question, migration = fmt.Sprintf(question, i), fmt.Sprintf(migration, i)
		}
		migrated := 0
		guard := schemaguard.Guard{UpToDate: func(ctx context.Context, db *sql.DB) (bool, error) {
			res, err := db.ExecContext(ctx, question)
			if err != nil {
				return false, err
			}
			n, err := res.RowsAffected()
			return n > 0, err
		}}
		for range 2 {
			err := guard.Ensure(tg.ctx(t), db, "not_yet", func(ctx context.Context, db *sql.DB) error {
				migrated++
				_, err := db.ExecContext(ctx, migration)
				return err
			})
			if err != nil {
				t.Errorf("%s: got %v; want nil", c.what, err)
			}
		}
		if migrated != 1 {
			t.Errorf("%s: got %d calls of migrate; want 1", c.what, migrated)
		}
	}
}

// oddName is whatever a name of Once may have.
const oddName = "1/$1 %s --/* \" ;~$bootlock$"

func wantRows(t *testing.T, admin *sql.DB, schema string, want int) {
	t.Helper()
	if got := sqltest.Ask[int](t, admin, "SELECT count(*) FROM "+schema+".bootlock_once"); got != want {
		t.Errorf("got %d rows in bootlock_once; want %d", got, want)
	}
}

// once: a start that is the first of several migrates, all others wait for it, and what
// ran is known to all that come later.
func once(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 6
	admin := tg.admin(t)
	dbs := warmed(ctx, t, tg, n)
	guard := schemaguard.Guard{Once: oddName}
	var inside crowd
	migrate := func(ctx context.Context, db *sql.DB) error {
		inside.enter()
		defer inside.leave()
		_, err := db.ExecContext(ctx, "CREATE TABLE at_once.t (n int)")
		return err
	}
	noErrors(t, together(n, func(i int) error { return guard.Ensure(ctx, dbs[i], "at_once", migrate) }))
	if total := inside.total.Load(); total != 1 {
		t.Errorf("got %d calls of migrate; want 1", total)
	}
	wantRows(t, admin, "at_once", 1)

	rec, db := tg.record(t)
	if err := errors.Join(guard.Ensure(ctx, db, "at_once", migrate), guard.Await(ctx, db, "at_once")); err != nil {
		t.Error(err)
	}
	if got, want := rec.String(), "connect > exec > release > take > exec > release"; got != want {
		t.Errorf("got driver calls %q; want %q", got, want)
	}

	var r locktrace.Recorder
	guard.Trace = r.Trace()
	for range 2 {
		if err := guard.Ensure(ctx, db, "once_in_order", func(context.Context, *sql.DB) error { return nil }); err != nil {
			t.Error(err)
		}
	}
	wantOrder(t, &r, "up to date > connect > begin > lock > create schema > commit > release > "+
		"connect > begin > lock > up to date > migrate > record > commit > release > up to date")
}

func onceWinnerFails(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 4
	dbs := warmed(ctx, t, tg, n)
	guard := schemaguard.Guard{Once: "build 1"}
	var calls atomic.Int32
	failed := 0
	for _, err := range together(n, func(i int) error {
		return guard.Ensure(ctx, dbs[i], "once_fails", func(context.Context, *sql.DB) error {
			if calls.Add(1) == 1 {
				return errOwn
			}
			return nil
		})
	}) {
		if errors.Is(err, errOwn) {
			failed++
			wantStep(t, err, locktrace.Migrate)
		} else if err != nil {
			t.Errorf("got %v; want nil", err)
		}
	}
	if failed != 1 || calls.Load() != 2 {
		t.Errorf("got %d failures, %d calls of migrate; want 1 and 2", failed, calls.Load())
	}
	wantRows(t, tg.admin(t), "once_fails", 1)

	// A lease that is lost leaves no row, whatever migrate returns.
	lost := schemaguard.Guard{Once: "build 2"}
	err := lost.Ensure(ctx, dbs[0], "once_fails", func(context.Context, *sql.DB) error {
		terminate(ctx, t, tg.admin(t), schemaguard.MigrateKey(schemaguard.KeyFor("once_fails")))
		return nil
	})
	wantIs(t, err, advisorylock.ErrLost)
	wantRows(t, tg.admin(t), "once_fails", 1)
}

// twoBuilds: in a rolling deploy processes of both builds start, in any order, and
// again, and after a rollback.
func twoBuilds(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 6
	dbs := warmed(ctx, t, tg, n)
	var inside crowd
	var of [2]atomic.Int32
	for range 2 {
		noErrors(t, together(n, func(i int) error {
			return schemaguard.Guard{Once: fmt.Sprintf("build %d", i%2)}.Ensure(ctx, dbs[i], "two_builds", func(context.Context, *sql.DB) error {
				inside.enter()
				defer inside.leave()
				of[i%2].Add(1)
				return nil
			})
		}))
	}
	if a, b, most := of[0].Load(), of[1].Load(), inside.most.Load(); a != 1 || b != 1 || most != 1 {
		t.Errorf("got %d and %d calls of migrate, %d at once; want 1 of each, one at a time", a, b, most)
	}
	wantRows(t, tg.admin(t), "two_builds", 2)
}

func onceDropped(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	db := tg.open(t)
	for _, drop := range []string{"DROP TABLE once_dropped.bootlock_once", "DROP SCHEMA once_dropped CASCADE"} {
		calls := 0
		for range 2 {
			err := schemaguard.Guard{Once: drop[:9]}.Ensure(ctx, db, "once_dropped", func(ctx context.Context, db *sql.DB) error {
				calls++
				_, err := db.ExecContext(ctx, drop)
				return err
			})
			if err != nil {
				t.Errorf("%s: got %v; want nil", drop, err)
			}
		}
		if calls != 1 {
			t.Errorf("%s: got %d calls of migrate; want 1", drop, calls)
		}
		wantRows(t, tg.admin(t), "once_dropped", 1)
	}
}

// awaitsRight: a migration may end with the GRANT that a worker's role needs, and 42501
// ended the worker.
func awaitsRight(t *testing.T, tg Target) {
	if tg.Weak == "" {
		t.Skip("not tested: no DSN for a role without rights")
	}
	ctx := tg.ctx(t)
	weak, err := sql.Open(tg.Driver, tg.Weak)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { weak.Close() })
	for schema, guard := range map[string]schemaguard.Guard{"granted_once": {Once: "build 1"}, "granted": upToDateGuard("granted")} {
		var r locktrace.Recorder
		locker, reported := reporting(&r)
		waiting := guard
		waiting.Trace = locker.Trace
		awaited := await.Go(func() error { return waiting.Await(ctx, weak, schema) })
		err := guard.Ensure(ctx, tg.open(t), schema, func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "CREATE TABLE "+schema+".done (n int); INSERT INTO "+schema+".done VALUES (1)")
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", schema, err)
		}
		if err := awaitReport(ctx, reported, awaited); err != nil {
			t.Errorf("%s: %v", schema, err)
			continue
		}
		if w := r.Waits()[0]; w.Err == nil {
			t.Errorf("%s: got %+v of the wait; want what may not be read yet", schema, w)
		}
		sqltest.Exec(t, tg.admin(t), "GRANT USAGE ON SCHEMA "+schema+" TO PUBLIC; GRANT SELECT ON "+schema+".done TO PUBLIC")
		if err := await.Value(t, awaited); err != nil {
			t.Errorf("%s: got %v after the grant; want nil", schema, err)
		}
	}
}
