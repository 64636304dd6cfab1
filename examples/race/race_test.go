package main

import (
	"database/sql"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
)

func TestMain(m *testing.M) {
	if worker.IsWorker() {
		if err := worker.Work(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	pgtest.Shutdown()
	os.Exit(code)
}

// raceOnce races what only matches, once per mode.
func raceOnce(t *testing.T, only, modes string, n, rounds int) *report {
	t.Helper()
	p := plan{
		sizes: []int{n}, rounds: rounds, short: true, seconds: 1,
		only: regexp.MustCompile(only), modes: regexp.MustCompile(modes),
	}
	f, err := worker.Start(n)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.measure(t.Context(), pgtest.Shared(t), f)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("the workers ended with %v", err)
	}
	if len(r.Tallies) == 0 {
		t.Fatalf("nothing was raced for %q, %q", only, modes)
	}
	return r
}

// Every library, both drivers, every mode of the guard, the migration with
// CREATE INDEX CONCURRENTLY and the slow one.
func TestGuarded(t *testing.T) {
	r := raceOnce(t, "", "^(Ensure|Serialize|UpToDate)$", 2, 1)
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	raced := map[string]bool{}
	for _, tally := range r.Tallies {
		raced[tally.Folder+"/"+tally.Driver] = true
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
		r := raceOnce(t, only, "^(as in its README|CREATE SCHEMA first)$", 8, 3)
		if err := r.verdict(); err != nil {
			t.Error(err)
		}
	}
}

// A control group has to fail of the race. One that fails alone, too, shows
// nothing.
func TestAlone(t *testing.T) {
	r := raceOnce(t, "", "^(as in its README|CREATE SCHEMA first)$", 1, 1)
	for _, tally := range r.Tallies {
		if tally.Failed > 0 {
			t.Errorf("%s/%s, %s: one process alone failed: %v", tally.Folder, tally.Driver, tally.Mode, tally.Texts)
		}
	}
}

// The verdict is what CI goes by.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		tallies []*tally
		ok      bool
	}{
		{"all well", []*tally{{Folder: "x", Mode: readme, Rounds: 3, Failed: 1}, {Folder: "x", Mode: once, Rounds: 3}}, true},
		{"guarded failure", []*tally{{Folder: "x", Mode: readme, Rounds: 3, Failed: 1}, {Folder: "x", Mode: once, Rounds: 3, Failed: 1}}, false},
		{"no failure in the control group", []*tally{{Folder: "x", Mode: readme, Rounds: 3}, {Folder: "x", Mode: once, Rounds: 3}}, false},
		{"a lock of its own needs none", []*tally{{Folder: "x", OwnLock: true, Mode: readme, Rounds: 3}}, true},
	} {
		if err := (&report{Tallies: test.tallies}).verdict(); (err == nil) != test.ok {
			t.Errorf("%s: got %v; want ok %v", test.name, err, test.ok)
		}
	}
}

// Failures that no process reports: bun returns nil while a table is missing,
// and golang-migrate leaves a dirty version behind.
func TestAddCountsSilentFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		results []result
		broken  bool
		failed  int
	}{
		{"all well", []result{{Took: 1}, {Took: 2}}, false, 0},
		{"error", []result{{Took: 1}, {Err: "x"}}, false, 1},
		{"nil, but a table is missing", []result{{Took: 1}, {Missing: 1}}, false, 1},
		{"nil, but left broken", []result{{Took: 1}, {Took: 2}}, true, 1},
	} {
		got := &tally{Texts: map[string]int{}}
		got.add(test.results, test.broken)
		if got.Failed != test.failed || len(got.Ready) != 1-test.failed {
			t.Errorf("%s: got %d rounds failed, %d timed; want %d, %d", test.name, got.Failed, len(got.Ready), test.failed, 1-test.failed)
		}
	}
}

// An UpToDate that creates its library's table to look into it, as goose's
// HasPending and golang-migrate's Version do, would race where there is no lock.
func TestUpToDateOnlyReads(t *testing.T) {
	for i, l := range libraries {
		if l.guard.UpToDate == nil || l.folder == "slow" {
			continue
		}
		t.Run(l.id(), func(t *testing.T) {
			t.Parallel()
			dsn, err := plan{}.dsn(pgtest.Shared(t).NewDB(t), readme)
			if err != nil {
				t.Fatal(err)
			}
			p, err := libraries[i].open(t.Context(), dsn)
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

// The interval is what keeps a chance median from being read as a result.
func TestRatio(t *testing.T) {
	t.Parallel()
	steady := &tally{Ready: []int64{200, 200, 200}}
	for _, test := range []struct {
		t, base *tally
		want    string
	}{
		{steady, &tally{Ready: []int64{100, 100, 100}}, "2.00 (2.00–2.00)"},
		{steady, &tally{Ready: []int64{100, 200, 400}}, "1.00 (0.50–2.00)"},
		{steady, &tally{Ready: []int64{100, 100}}, ""},
		{&tally{}, &tally{}, ""},
	} {
		if got := ratio(test.t, test.base); got != test.want {
			t.Errorf("got %q; want %q", got, test.want)
		}
	}
}

// A worker says so if its job does not come back, and is replaced.
func TestHungWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t).NewDB(t)
	f, err := worker.Start(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // the hung one is killed
	// golang-migrate does not look at its context.
	db, err := sql.Open(pq, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	if _, err := tx.ExecContext(t.Context(), "CREATE TABLE schema_migrations (version bigint); LOCK TABLE pg_catalog.pg_class"); err != nil {
		t.Fatal(err)
	}
	results, err := f.Do(1, job{Library: indexOf(t, "golangmigrate/postgres"), Mode: readme, DSN: dsn}, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if !results[0].Hung {
		t.Errorf("got %+v; want a worker that hangs", results[0])
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	results, err = f.Do(1, job{Library: indexOf(t, "golangmigrate/postgres"), Mode: readme, DSN: dsn}, time.Minute)
	if err != nil || results[0].Hung {
		t.Errorf("got %+v, %v; want the worker replaced", results, err)
	}
}

func indexOf(t *testing.T, id string) int {
	t.Helper()
	for i, l := range libraries {
		if l.id() == id {
			return i
		}
	}
	t.Fatalf("no library %s", id)
	return 0
}
