package main

import (
	"database/sql"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

func TestMain(m *testing.M) {
	if os.Getenv(envWorker) != "" {
		main()
		return
	}
	defer pgtest.Shutdown()
	m.Run()
}

// raceOnce races what only matches, once per mode.
func raceOnce(t *testing.T, only string, modes []mode, n, rounds int) []*tally {
	t.Helper()
	p := plan{
		sizes: []int{n}, rounds: rounds, short: true, seconds: 1,
		only: regexp.MustCompile(only), modes: modes,
	}
	f, err := startFleet(n)
	if err != nil {
		t.Fatal(err)
	}
	tallies, err := p.measure(t.Context(), pgtest.Shared(t), f, func(got *tally) { t.Log(got) })
	if err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Errorf("the workers ended with %v", err)
	}
	if len(tallies) == 0 {
		t.Fatalf("nothing was raced for %q, %v", only, modes)
	}
	return tallies
}

// Every library, both drivers, every mode of the guard, the migration with
// CREATE INDEX CONCURRENTLY and the slow one.
func TestGuarded(t *testing.T) {
	tallies := raceOnce(t, "", []mode{schemaOnly, serialize, once}, 2, 1)
	if err := verdict(tallies); err != nil {
		t.Error(err)
	}
	raced := map[string]bool{}
	for _, tally := range tallies {
		raced[tally.id()] = true
	}
	for _, l := range libraries {
		if !raced[l.id()] {
			t.Errorf("%s was not raced", l.id())
		}
	}
}

// Without the control group a harness that does not collide at all would look
// just as good.
func TestControl(t *testing.T) {
	for _, only := range []string{"plainsql/postgres", "riverpgx/", "concurrently/"} {
		if err := verdict(raceOnce(t, only, []mode{readme, schemaFirst}, 8, 3)); err != nil {
			t.Error(err)
		}
	}
}

// A control group has to fail of the race. One that fails alone, too, shows
// nothing.
func TestAlone(t *testing.T) {
	for _, tally := range raceOnce(t, "", []mode{readme, schemaFirst}, 1, 1) {
		if tally.failed > 0 {
			t.Errorf("one process alone failed: %v", tally)
		}
	}
}

// The verdict is what CI goes by. A round may fail without an error: bun returns nil
// while a table is missing, and golang-migrate leaves a dirty version behind.
func TestVerdict(t *testing.T) {
	t.Parallel()
	well, failed, silent := []result{{Took: 1}, {Took: 2}}, []result{{Took: 1}, {Err: "x"}}, []result{{Took: 1}, {Missing: 1}}
	for name, test := range map[string]struct {
		unguarded, guarded []result
		broken, ownLock    bool // broken: the guarded one
		ok                 bool
	}{
		"all well":                       {failed, well, false, false, true},
		"a silent failure is one":        {silent, well, false, false, true},
		"guarded failure":                {failed, failed, false, false, false},
		"silent guarded failure":         {failed, silent, false, false, false},
		"guarded, but left broken":       {failed, well, true, false, false},
		"no failure without a guard":     {well, well, false, false, false},
		"a lock of its own makes it fit": {well, well, false, true, true},
	} {
		l := library{ownLock: test.ownLock}
		without, with := &tally{library: l, mode: readme, texts: map[string]int{}}, &tally{library: l, mode: once, texts: map[string]int{}}
		without.add(test.unguarded, false)
		with.add(test.guarded, test.broken)
		if err := verdict([]*tally{without, with}); (err == nil) != test.ok {
			t.Errorf("%s: got %v; want ok %v", name, err, test.ok)
		}
	}
}

// An UpToDate that creates its library's table to look into it, as goose's
// HasPending and golang-migrate's Version do, would race where there is no lock.
func TestUpToDateOnlyReads(t *testing.T) {
	for _, l := range libraries {
		if l.guard.UpToDate == nil || l.folder == "slow" {
			continue
		}
		t.Run(l.id(), func(t *testing.T) {
			t.Parallel()
			p, err := l.open(t.Context(), plan{}.dsn(pgtest.Shared(t).NewDB(t), readme))
			if err != nil {
				t.Fatal(err)
			}
			defer p.close()

			done, err := p.guard.UpToDate(t.Context(), p.db)
			if done && err == nil {
				t.Error("an empty database is up to date; want it not to be")
			}
			if n := relations(t, p.db); n != 0 {
				t.Errorf("UpToDate left %d relations behind; want none", n)
			}
			if err := p.migrate(t.Context(), p.db); err != nil {
				t.Fatal(err)
			}
			n := relations(t, p.db)
			if done, err := p.guard.UpToDate(t.Context(), p.db); !done || err != nil {
				t.Errorf("after migrate: got %v, %v; want it to be up to date", done, err)
			}
			if got := relations(t, p.db); got != n {
				t.Errorf("UpToDate changed the number of relations from %d to %d", n, got)
			}
			if missing, err := l.missing(t.Context(), p.db); missing != 0 || err != nil {
				t.Errorf("after migrate: %d tables or indexes missing, %v", missing, err)
			}
		})
	}
}

func relations(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace").Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A worker says of a job that it hangs, and goes on with the next. golang-migrate, the
// first library, does not look at its context.
func TestHungJob(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t).NewDB(t)
	f, err := startFleet(1)
	if err != nil {
		t.Fatal(err)
	}
	tx := sqltest.Begin(t, sqltest.Open(t, pq, dsn))
	sqltest.Exec(t, tx, "CREATE TABLE schema_migrations (version bigint); LOCK TABLE pg_catalog.pg_class")
	for _, want := range []string{hangs, ""} {
		timeout := time.Minute
		if want == hangs {
			timeout = 100 * time.Millisecond
		}
		results, err := f.do(1, order{Library: 0, Mode: readme, DSN: dsn, Timeout: timeout})
		if err != nil || results[0].Err != want {
			t.Errorf("got %+v, %v; want the error %q", results, err, want)
		}
		_ = tx.Rollback()
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}
