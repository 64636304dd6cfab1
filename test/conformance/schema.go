package conformance

import (
	"context"
	"database/sql"
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
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

var schemaPromises = []promise{
	{"Ensure: the order, and nothing prepared", ensureOrder},
	{"Ensure: nobody loses the race", ensureRace},
	{"Ensure: nor beside unguarded processes", ensureMixed},
	{"Ensure: a commit without an answer", commitUnanswered},
	{"Ensure: names as they are", ensureNames},
	{"Ensure: a role without rights", weakRole},
	{"Serialize: one migrates at a time", serialize},
	{"UpToDate, Once: one migrates for all, later starts are one round trip", oneForAll},
	{"UpToDate: what does not exist yet is no", notThereYet},
	{"Once: a lost lease leaves no row", onceLost},
	{"Once: a table that migrate drops is made again", onceDropped},
	{"Await: a right that comes with the migration", awaitsRight},
}

func schemaExists(t *testing.T, admin *sql.DB, schema string) bool {
	t.Helper()
	return sqltest.Ask[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema)
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
		return advisorylock.TryWithXactLock(ctx, other, schemaguard.KeyFor("in_order"), locktest.Nothing) // free
	})
	if err != nil || !migrated {
		t.Fatalf("got %v, migrated %v; want nil, true", err, migrated)
	}
	wantCalls(t, rec, "connect > begin > exec > exec > commit > release")
	wantOrder(t, &r, "connect > begin > lock > create schema > commit > release > migrate")
}

// ensureRace: without the guard, 16 sessions × 50 rounds of CREATE SCHEMA IF NOT EXISTS
// on a fresh name fail 94 times with 23505. The control does not leave that to chance.
func ensureRace(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n, rounds = 8, 10
	dbs := warmed(t, tg, n)
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

	err := clash(t, tg, "unguarded", func() error {
		_, err := dbs[0].ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS unguarded")
		return err
	})
	if sqlstate.CatalogIndex(err) != "pg_namespace_nspname_index" {
		t.Errorf("control: got %v without the guard; want the clash", err)
	}
}

// clash runs create while the transaction of another session has created the same schema
// and is not committed yet, and returns its error.
func clash(t *testing.T, tg Target, schema string, create func() error) error {
	t.Helper()
	admin := tg.admin(t)
	other := sqltest.Begin(t, admin)
	sqltest.Exec(t, other, "CREATE SCHEMA IF NOT EXISTS "+schema)
	created := await.Go(create)
	await.True(t, "create has found no schema and waits for the other session", func() bool {
		return sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%SCHEMA%"+schema+"%' AND pid <> pg_backend_pid()") == 1
	})
	sqltest.Commit(t, other)
	return await.Value(t, created)
}

// warmed opens n pools with a connection each, so that a barrier lets statements
// race and not the opening of connections.
func warmed(t *testing.T, tg Target, n int) []*sql.DB {
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
	ctx, db := tg.ctx(t), tg.open(t)
	var r locktrace.Recorder
	err := clash(t, tg, "mixed", func() error { return schemaguard.Guard{Trace: r.Trace()}.Ensure(ctx, db, "mixed", nil) })
	if err != nil {
		t.Errorf("got %v; want the clash tried again", err)
	}
	wantOrder(t, &r, "connect > begin > lock > create schema! > rollback > release > connect > begin > lock > create schema > commit > release")
}

// commitUnanswered: what the server has made of a commit whose answer is lost, nobody
// knows, and the error says so.
func commitUnanswered(t *testing.T, tg Target) {
	admin := tg.admin(t)
	for schema, fails := range map[string]error{"not_committed": errOwn, "committed": recdriver.After(errOwn)} {
		rec, db := tg.record(t)
		rec.OnCall(recdriver.FailOn(recdriver.Commit, "", 1, fails))
		err := schemaguard.Ensure(tg.ctx(t), db, schema, notReached(t, schema))
		wantIs(t, err, errOwn)
		locktest.WantStep(t, err, locktrace.Commit)
		if !strings.Contains(fmt.Sprint(err), "outcome unknown") {
			t.Errorf("got %v; want the outcome unknown", err)
		}
		if exists := schemaExists(t, admin, schema); exists != (schema == "committed") {
			t.Errorf("%s: got the schema: %t", schema, exists)
		}
		if err := schemaguard.Ensure(tg.ctx(t), db, schema, nil); err != nil {
			t.Errorf("got %v from the next call; want the lock free and a sound connection", err)
		}
	}
}

func notReached(t *testing.T, what string) func(context.Context, *sql.DB) error {
	return func(context.Context, *sql.DB) error {
		t.Errorf("%s: got migrate called; want it left out", what)
		return nil
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
	if schemaExists(t, admin, "pwned") {
		t.Error("got the schema pwned; want names that are not run")
	}
}

// weakRole: CREATE SCHEMA IF NOT EXISTS fails with 42501 even if there is nothing
// to create, and processes with least rights did not start.
func weakRole(t *testing.T, tg Target) {
	if tg.Weak == "" {
		t.Skip("not tested: no DSN for a role without rights")
	}
	ctx := tg.ctx(t)
	weak := sqltest.Open(t, tg.Driver, tg.Weak)
	guards := map[string]schemaguard.Guard{
		"plain":        {},
		"SkipIfExists": {SkipIfExists: true},
		"Bootstrap": {Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS not_mine.migrations (id int)")
			return err
		}},
	}
	for name, guard := range guards {
		err := guard.Ensure(ctx, weak, "not_mine", notReached(t, name))
		locktest.WantStep(t, err, locktrace.CreateSchema)
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
	err := advisorylock.WithXactLock(ctx, tg.open(t), key, func(context.Context, *sql.Tx) error {
		holders := locktest.Holders(t, weak, key)
		if len(holders) != 1 || holders[0].PID <= 0 || holders[0].User == "" ||
			holders[0].Query != "" || holders[0].State != "" || !holders[0].Since.IsZero() {
			t.Errorf("got holders %+v; want one with its process id, and what may not be seen to be zero", holders)
		}
		begins, begun := locktest.Beginning()
		err := locktest.EndWait(tg.ctx(t), errOwn, begun, func(ctx context.Context) error {
			return begins.WithXactLock(ctx, weak, key, locktest.Nothing)
		})
		if err == nil || !strings.Contains(err.Error(), holders[0].TerminateSQL()) || strings.Contains(err.Error(), "privilege") {
			t.Errorf("got %v; want the holder's process id, and nothing about privileges", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func serialize(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 5
	dbs := warmed(t, tg, n)
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
}

// asking are the guards that know whether migrate has run, by the table done.
var asking = map[string]func(schema string) schemaguard.Guard{
	"up_to_date": func(schema string) schemaguard.Guard {
		return schemaguard.Guard{UpToDate: locktest.HasRows("SELECT FROM " + schema + ".done")}
	},
	"once": func(string) schemaguard.Guard { return schemaguard.Guard{Once: oddName} },
}

// makeDone is a migration that succeeds once.
func makeDone(ctx context.Context, db *sql.DB, schema string) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE "+schema+".done (n int); INSERT INTO "+schema+".done VALUES (1)")
	return err
}

// oneForAll: the first of several starts migrates, the others wait for it, and later
// ones do nothing but ask.
func oneForAll(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	const n = 6
	dbs := warmed(t, tg, n)
	for name, guardOf := range asking {
		schema := "all_" + name
		guard := guardOf(schema)
		var inside crowd
		migrate := func(ctx context.Context, db *sql.DB) error {
			inside.enter()
			defer inside.leave()
			return makeDone(ctx, db, schema)
		}
		noErrors(t, together(n, func(i int) error { return guard.Ensure(ctx, dbs[i], schema, migrate) }))
		if total := inside.total.Load(); total != 1 {
			t.Errorf("%s: got %d calls of migrate; want 1", name, total)
		}
		rec, db := tg.record(t)
		var r locktrace.Recorder
		guard.Trace = r.Trace()
		noErrors(t, []error{guard.Ensure(ctx, db, schema, migrate), guard.Await(ctx, db, schema)})
		wantCalls(t, rec, "connect > exec > release > take > exec > release")
		wantOrder(t, &r, "up to date > up to date")
	}
}

// notThereYet: a question may be about the very column, function or type that the
// migration makes. As an error it ended every start.
func notThereYet(t *testing.T, tg Target) {
	db, admin := tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE SCHEMA not_yet; CREATE TABLE not_yet.t (n int)")
	for _, c := range []struct{ what, question, migration string }{
		{"schema", "SELECT FROM yet.t", "CREATE SCHEMA yet; CREATE TABLE yet.t (); INSERT INTO yet.t DEFAULT VALUES"},
		{"table", "SELECT FROM not_yet.made", "CREATE TABLE not_yet.made (); INSERT INTO not_yet.made DEFAULT VALUES"},
		{"column", "SELECT count(c) FROM not_yet.t", "ALTER TABLE not_yet.t ADD c int"},
		{"function", "SELECT not_yet.f()", "CREATE FUNCTION not_yet.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"},
		{"type", "SELECT NULL::not_yet.c", "CREATE TYPE not_yet.c AS ENUM ('a')"},
	} {
		migrated := 0
		guard := schemaguard.Guard{UpToDate: locktest.HasRows(c.question)}
		for range 2 {
			err := guard.Ensure(tg.ctx(t), db, "not_yet", func(ctx context.Context, db *sql.DB) error {
				migrated++
				_, err := db.ExecContext(ctx, c.migration)
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

// onceLost: whatever migrate returns.
func onceLost(t *testing.T, tg Target) {
	admin := tg.admin(t)
	err := schemaguard.Guard{Once: "build 1"}.Ensure(tg.ctx(t), tg.open(t), "once_lost", func(context.Context, *sql.DB) error {
		locktest.Terminate(t, admin, schemaguard.MigrateKey(schemaguard.KeyFor("once_lost")))
		return nil
	})
	wantIs(t, err, advisorylock.ErrLost)
	wantRows(t, admin, "once_lost", 0)
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
	weak := sqltest.Open(t, tg.Driver, tg.Weak)
	for name, guardOf := range asking {
		schema := "granted_" + name
		guard := guardOf(schema)
		locker, lasting := locktest.Lasting(advisorylock.Locker{})
		waiting := guard
		waiting.Trace = locker.Trace
		awaited := await.Go(func() error { return waiting.Await(ctx, weak, schema) })
		if err := guard.Ensure(ctx, tg.open(t), schema, func(ctx context.Context, db *sql.DB) error { return makeDone(ctx, db, schema) }); err != nil {
			t.Errorf("%s: %v", schema, err)
		}
		if w := locktest.AwaitReport(t, lasting, awaited); w.Err == nil {
			t.Errorf("%s: got %+v of the wait; want what may not be read yet", schema, w)
		}
		sqltest.Exec(t, tg.admin(t), "GRANT USAGE ON SCHEMA "+schema+" TO PUBLIC; GRANT SELECT ON "+schema+".done TO PUBLIC")
		if err := await.Value(t, awaited); err != nil {
			t.Errorf("%s: got %v after the grant; want nil", schema, err)
		}
	}
}
