//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

const (
	askV1     = "SELECT 1 FROM " + onceApp + " WHERE name OPERATOR(pg_catalog.=) 'v1'"
	tableApp  = `CREATE TABLE IF NOT EXISTS ` + onceApp + ` (name pg_catalog.text COLLATE "C" PRIMARY KEY, at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now()); GRANT SELECT ON ` + onceApp + ` TO PUBLIC`
	onceAfter = "connect > begin > lock > up to date > migrate > record > commit > release"
	onceFirst = "up to date > " + created + " > " + onceAfter
)

// mayApp asks the catalog whether the table is there and the role has a right to it.
func mayApp(right string) string {
	return "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace" +
		" WHERE n.nspname OPERATOR(pg_catalog.=) 'app' AND c.relname OPERATOR(pg_catalog.=) 'bootlock_once'" +
		" AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, '" + right + "')"
}

var (
	mayWrite    = mayApp("INSERT") + " AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off'"
	underLock   = []string{"BEGIN", "lease", "SELECT 1", askV1, mayWrite}
	recordV1    = []string{mayApp("INSERT"), insertApp + "v1" + insertEnd, "COMMIT"}
	afterCommit = slices.Concat(underLock, recordV1)
)

// What each start sends, and in which order.
func TestOnce(t *testing.T) {
	grant := func(context.Context, *sql.Tx) error { return nil }
	first := func(create string) []string {
		return slices.Concat([]string{askV1, "BEGIN", "lock", create, "COMMIT", "BEGIN", "lease", "SELECT 1", mayApp("SELECT"), askV1, mayWrite}, recordV1)
	}
	type test struct {
		guard schemaguard.Guard
		table bool     // is there
		ran   []string // and has these rows
		order string
		want  []string
	}
	each(t, map[string]test{
		"first": {schemaguard.Guard{SkipIfExists: true}, false, nil, onceFirst, first(createApp + "; " + tableApp)},
		"first, owner": {
			schemaguard.Guard{Owner: "bob"},
			false, nil, onceFirst,
			first(createApp + ` AUTHORIZATION "bob"; ` + tableApp + `; ALTER TABLE ` + onceApp + ` OWNER TO "bob"`),
		},
		"second":          {schemaguard.Guard{Bootstrap: grant}, true, []string{"v1"}, "up to date", []string{askV1}},
		"another build's": {schemaguard.Guard{}, true, []string{"v0"}, "up to date > " + onceAfter, slices.Concat([]string{askV1}, afterCommit)},
		"table, bootstrap": {
			schemaguard.Guard{Bootstrap: grant},
			true, nil,
			"up to date > connect > begin > lock > create schema > bootstrap > commit > release > " + onceAfter,
			slices.Concat([]string{askV1, "BEGIN", "lock", createApp, "COMMIT"}, afterCommit),
		},
		"table, bootstrap, skip": {
			schemaguard.Guard{Bootstrap: grant, SkipIfExists: true},
			true, nil,
			"up to date > " + onceAfter,
			slices.Concat([]string{askV1}, afterCommit),
		},
	}, func(t *testing.T, test test) {
		f := newFixture(t, 2)
		f.world.there = true
		f.world.set(test.table, test.ran...)
		test.guard.Once = "v1"
		if err := f.ensure(t, test.guard); err != nil {
			t.Fatal(err)
		}
		f.wantOrder(t, test.order)
		f.wantSent(t, test.want...)
		f.world.wantRan(t, slices.Compact(append(test.ran, "v1"))...)
	})
}

// The row says that migrate returned nil and that the lock was held to the end. Where
// one of them is not so there is none, the error says why, and the next start migrates.
func TestOnceRecordsNothing(t *testing.T) {
	ended, terminated := errors.New("shutting down"), recdriver.SQLError{Code: "57P01"}
	type test struct {
		migrate func(f *fixture, cancel context.CancelCauseFunc)
		step    locktrace.Step
		err     error
	}
	each(t, map[string]test{
		"ctx ends":   {func(_ *fixture, cancel context.CancelCauseFunc) { cancel(ended) }, locktrace.Record, ended},
		"lease lost": {func(f *fixture, _ context.CancelCauseFunc) { f.world.Kill(int64(migrateApp)) }, locktrace.Migrate, advisorylock.ErrLost},
		"lost in record": {func(f *fixture, _ context.CancelCauseFunc) {
			f.OnCall(recdriver.FailOn(recdriver.Exec, insertApp, 0, terminated))
			f.OnCall(recdriver.FailOn(recdriver.Rollback, "", 0, terminated))
		}, locktrace.Migrate, advisorylock.ErrLost},
	}, func(t *testing.T, test test) {
		w := newWorld()
		f := w.process(t, recdriver.Plain, 2)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		err := f.ensureWith(ctx, schemaguard.Guard{Once: "v1"}, func(context.Context, *sql.DB) error {
			test.migrate(f, cancel)
			return nil
		})
		wantStep(t, err, test.step, test.err)
		w.wantRan(t)

		next := w.process(t, recdriver.LibPQ, 2)
		if err := next.ensure(t, schemaguard.Guard{Once: "v1"}); err != nil {
			t.Error(err)
		}
		next.wantOrder(t, "up to date > "+onceAfter)
		w.wantRan(t, "v1")
	})
}

// A migrate that drops the schema takes the table with it, which is made again.
func TestOnceTableDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, 2)
		f.world.table = true
		err := f.ensureWith(t.Context(), schemaguard.Guard{Once: "v1"}, func(context.Context, *sql.DB) error {
			f.world.set(false)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		f.wantSent(t, slices.Concat([]string{askV1}, underLock, []string{mayApp("INSERT"), createApp + "; " + tableApp, recordV1[1], "COMMIT"})...)
		f.world.wantRan(t, "v1")
	})
}

// What cannot be recorded is not begun, and the error says what to do.
func TestOnceMayNotRecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, 2)
		f.world.table, f.world.denied = true, "INSERT"
		err := f.ensureWith(t.Context(), schemaguard.Guard{Once: "v1"}, notCalled(t))
		wantStep(t, err, locktrace.UpToDate, err)
		wantText(t, err, onceApp, "GRANT INSERT", "default_transaction_read_only")
		f.wantOrder(t, "up to date > connect > begin > lock > up to date! > rollback > release")
	})
}

// A role that may not create the schema may still be allowed to create the table in
// it, or to use one that is there.
func TestOnceRefused(t *testing.T) {
	const (
		create  = "up to date > connect > begin > lock > create schema! > rollback > release > connect > look > release"
		table   = " > " + created
		refused = " > connect > begin > lock > create schema! > rollback > release > connect > look > release"
		boot    = " > connect > begin > lock > bootstrap > commit > release"
	)
	type test struct {
		code      string
		also      string // what is refused besides CREATE SCHEMA
		table     bool   // it is there, made by somebody else meanwhile
		bootstrap bool
		order     string
		fails     bool
	}
	each(t, map[string]test{
		"schema alone":            {"42501", "CREATE SCHEMA", false, false, create + table + " > " + onceAfter, false},
		"table too":               {"42501", "CREATE TABLE", false, false, create + refused + " > connect > begin > lock > up to date! > rollback > release", true},
		"table too, there":        {"42501", "CREATE TABLE", true, false, create + refused + " > " + onceAfter, false},
		"table too, bootstrap":    {"42501", "CREATE TABLE", true, true, create + refused + boot + " > " + onceAfter, false},
		"read-only, migrate none": {"25006", "CREATE TABLE", true, true, create + " > " + onceAfter, false},
	}, func(t *testing.T, test test) {
		f := newFixture(t, 2)
		f.world.there = true
		f.OnCall(recdriver.FailOn(recdriver.Exec, test.also, 0, recdriver.SQLError{Code: test.code}))
		f.OnCall(func(_ context.Context, c *recdriver.Call) error {
			if c.Kind == recdriver.Rollback {
				f.world.set(test.table)
			}
			return nil
		})
		g := schemaguard.Guard{Once: "v1"}
		if test.bootstrap {
			g.Bootstrap = func(context.Context, *sql.Tx) error { return nil }
		}
		if err := f.ensure(t, g); (err != nil) != test.fails {
			t.Errorf("got error %v; want one: %t", err, test.fails)
		}
		f.wantOrder(t, test.order)
	})
}

// A question that fails ends the start.
func TestOnceAskFails(t *testing.T) {
	denied := recdriver.SQLError{Code: "42501"}
	each(t, map[string]func(context.Context, *recdriver.Call) error{
		"ask":       recdriver.FailOn(recdriver.Exec, onceApp, 1, denied),
		"connect":   recdriver.FailOn(recdriver.Connect, "", 1, denied),
		"no right":  recdriver.FailOn(recdriver.Exec, "'SELECT'", 0, denied),
		"no insert": recdriver.FailOn(recdriver.Exec, "'INSERT'", 0, denied),
	}, func(t *testing.T, hook func(context.Context, *recdriver.Call) error) {
		f := newFixture(t, 2)
		f.OnCall(hook)
		wantStep(t, f.ensure(t, schemaguard.Guard{Once: "v1"}), locktrace.UpToDate, denied)
	})
}

// The wait for a connection to ask with is told of, and ends with ctx.
func TestOnceAskWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, 2)
		full := recdriver.SQLError{Code: "53300", Message: "sorry, too many clients already"}
		f.OnCall(recdriver.FailOn(recdriver.Exec, "WHERE name", 0, full))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := f.ensureWith(ctx, schemaguard.Guard{Once: "v1"}, nothing)
		wantStep(t, err, locktrace.UpToDate, context.DeadlineExceeded)
		wantStep(t, err, locktrace.UpToDate, full)
		waits := f.rec.Waits()
		if len(waits) == 0 || !errors.Is(waits[0].Err, full) || waits[0].Key != int64(migrateApp) || waits[0].For != locktrace.Migrate {
			t.Errorf("told of %+v; want why it waits", waits)
		}
	})
}

// Each name is refused before anything is sent.
func TestOnceRefusesNames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, 2)
		for name, want := range map[string]string{
			strings.Repeat("x", 256): "has 256 bytes; at most 255 are allowed",
			"it's":                   `has the character '\''`,
			`a\b`:                    `has the character '\\'`,
			"é":                      "has the character 'é'",
			"\xff":                   "has the character '\uFFFD'",
			"two\nlines":             `has the character '\n'`,
		} {
			g := schemaguard.Guard{Once: name}
			wantText(t, f.ensure(t, g), `schemaguard.Ensure "app": the name of Once `+want)
			wantText(t, g.Await(t.Context(), f.db, "app"), `schemaguard.Await "app": the name of Once `+want)
		}
		err := f.ensure(t, schemaguard.Guard{Once: "v1", UpToDate: answer(true)})
		wantText(t, err, "the options Once and UpToDate exclude each other")
		f.wantSent(t)

		longest := strings.Repeat("~ ", 127) + "!"
		if err := f.ensure(t, schemaguard.Guard{Once: longest}); err != nil {
			t.Error(err)
		}
	})
}
