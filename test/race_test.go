package test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// racers is how many processes start at once, half of them on each driver.
const racers = 16

// A race test without a barrier proves nothing, since the race is rare when the
// processes come one by one: one that is well known passed 100 times out of 100
// with the lock taken out. Here each process connects first, then all begin at
// the same moment, round after round, each round on a schema that is not there;
// and the naive way runs on the same track, until it is seen to lose.

// Of processes that all run CREATE SCHEMA IF NOT EXISTS on a fresh database,
// about one in ten dies with duplicate key value violates unique constraint
// "pg_namespace_nspname_index".
func TestRace(t *testing.T) {
	track := newTrack(t)
	unguarded := track.control("unguarded", track.all(heat{}), func(e entry) bool {
		return e.finish.Code == "23505" && strings.Contains(e.finish.Err, "pg_namespace_nspname_index")
	})
	guarded := track.rounds("guarded", max(len(unguarded)/racers, 20), track.all(heat{Guarded: true}))
	wantNoFailure(t, guarded)
	wantNoClash(t, guarded)
}

// In a rolling deployment, processes of the last release, without the guard, run
// beside the new ones. The lock alone is not enough then: the guarded ones clash
// with the others, and have to try again in a new transaction.
func TestRaceBesideUnguarded(t *testing.T) {
	track := newTrack(t)
	mixed := track.all(heat{})
	for i := range mixed {
		mixed[i].Guarded = i/len(drivers)%2 == 0 // both kinds with both drivers
		if !mixed[i].Guarded {
			mixed[i].spread = 2 * time.Millisecond // else they are all done when the first of the others has the lock
		}
	}
	entries := track.control("mixed", mixed,
		func(e entry) bool { return !e.heat.Guarded && e.finish.Err != "" },
		func(e entry) bool { return e.heat.Guarded && strings.Contains(e.finish.Steps, "create schema!") })
	wantNoFailure(t, slices.DeleteFunc(entries, func(e entry) bool { return !e.heat.Guarded }))
}

// Everything on the schema belongs under the same lock: concurrent GRANTs fail
// with "tuple concurrently updated", CREATE TABLE IF NOT EXISTS with 23505.
func TestRaceOfBootstraps(t *testing.T) {
	track := newTrack(t)
	track.control("bootstrap without the guard", track.all(heat{Bootstrap: true}),
		func(e entry) bool { return e.finish.Err != "" })
	guarded := track.rounds("bootstrap under the guard", 15, track.all(heat{Guarded: true, Bootstrap: true}))
	wantNoFailure(t, guarded)
	wantNoClash(t, guarded)
	n := sqltest.Ask[int](t, sqltest.Open(t, "pgx", track.dsn), `SELECT count(*) FROM pg_namespace n WHERE nspname LIKE 'round%'
		AND has_schema_privilege('public', n.oid, 'USAGE') AND to_regclass(n.nspname || '.migrations') IS NOT NULL`)
	if want := len(guarded) / racers; n < want {
		t.Errorf("got %d schemas with the grant and the table; want %d", n, want)
	}
}

// wantNoClash tells the lock from what mends a clash with others: where all are
// guarded, nobody has to try again.
func wantNoClash(t *testing.T, guarded []entry) {
	t.Helper()
	for _, e := range guarded {
		if strings.Contains(e.finish.Steps, "!") {
			t.Errorf("%s, all under the guard: got %s; want no step to fail", e.driver, e.finish.Steps)
		}
	}
}

// heat is what a process is told to do at a given moment.
type heat struct {
	At        time.Time
	Schema    string
	Guarded   bool
	Bootstrap bool // and GRANT and CREATE TABLE

	spread time.Duration // At is late by a random part of this
}

// finish is what a process made of its heat.
type finish struct {
	Err   string
	Code  string // SQLSTATE
	Steps string
}

// entry is one process in one round.
type entry struct {
	driver string
	heat   heat
	finish finish
}

func init() { children["racer"] = race }

// race is the program of one process: it connects, says so, and then runs one
// heat for each line that it is given.
func race() error {
	db, err := sql.Open(os.Getenv("RACE_DRIVER"), os.Getenv("RACE_DSN"))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Ping(); err != nil {
		return err
	}
	fmt.Println("ready")
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var h heat
		if err := in.Decode(&h); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		time.Sleep(time.Until(h.At))
		if err := out.Encode(run(db, h)); err != nil {
			return err
		}
	}
}

func run(db *sql.DB, h heat) finish {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var trace locktrace.Recorder
	var err error
	switch {
	case h.Guarded:
		guard := schemaguard.Guard{Trace: trace.Trace()}
		if h.Bootstrap {
			guard.Bootstrap = func(ctx context.Context, tx *sql.Tx) error { return bootstrap(ctx, tx, h.Schema) }
		}
		err = guard.Ensure(ctx, db, h.Schema, nil)
	default:
		_, err = db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+h.Schema)
		if err == nil && h.Bootstrap {
			err = bootstrap(ctx, db, h.Schema)
		}
	}
	f := finish{Steps: trace.String(), Code: sqlstate.Of(err)}
	if err != nil {
		f.Err = err.Error()
	}
	return f
}

func bootstrap(ctx context.Context, db sqltest.Querier, schema string) error {
	for _, statement := range []string{
		"GRANT USAGE ON SCHEMA %s TO public",
		"CREATE TABLE IF NOT EXISTS %s.migrations (id int)",
		"CREATE OR REPLACE FUNCTION %s.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
	} {
		if _, err := db.ExecContext(ctx, fmt.Sprintf(statement, schema)); err != nil {
			return err
		}
	}
	return nil
}

// track is a fresh database with the processes that race on it.
type track struct {
	t     *testing.T
	dsn   string
	lanes []lane
	round int
}

type lane struct {
	driver string
	*program
}

func newTrack(t *testing.T) *track {
	t.Helper()
	tr := &track{t: t, dsn: pgtest.Shared(t).NewDB(t)}
	for i := range racers {
		driver := drivers[i%len(drivers)]
		tr.lanes = append(tr.lanes, lane{driver, start(t, "racer", "RACE_DRIVER="+driver, "RACE_DSN="+tr.dsn)})
	}
	for _, l := range tr.lanes {
		l.hear(t, "ready")
	}
	t.Cleanup(func() { nothingLeft(t, tr.dsn) })
	return tr
}

// all gives every process the same heat.
func (tr *track) all(h heat) []heat { return slices.Repeat([]heat{h}, len(tr.lanes)) }

// rounds runs n rounds and prints the failures out of the runs.
func (tr *track) rounds(what string, n int, heats []heat) []entry {
	tr.t.Helper()
	var entries []entry
	for range n {
		entries = append(entries, tr.run(heats)...)
	}
	tr.report(what, entries)
	return entries
}

// control runs rounds until each of the given clashes was seen, and fails the
// test, as one that proved nothing, if that does not happen.
func (tr *track) control(what string, heats []heat, clashes ...func(entry) bool) []entry {
	tr.t.Helper()
	const atLeast, atMost, more = 10, 300, 10
	seen := make([]int, len(clashes))
	var entries []entry
	for round := 1; round <= atMost && (round <= atLeast || slices.Contains(seen, 0)); round++ {
		if round > atLeast && round%more == 1 {
			tr.t.Logf("%s: %v clashes in %d rounds prove nothing: more rounds", what, seen, round-1)
		}
		for _, e := range tr.run(heats) {
			entries = append(entries, e)
			for i, clashed := range clashes {
				if clashed(e) {
					seen[i]++
				}
			}
		}
	}
	tr.report(what, entries)
	tr.t.Logf("%s: %v clashes in %d rounds", what, seen, len(entries)/racers)
	if slices.Contains(seen, 0) {
		tr.t.Fatalf("%s: %v clashes in %d rounds of %d processes: this run proves nothing", what, seen, atMost, racers)
	}
	return entries
}

func wantNoFailure(t *testing.T, guarded []entry) {
	t.Helper()
	for _, e := range guarded {
		if e.finish.Err != "" {
			t.Errorf("%s, under the guard: %s", e.driver, e.finish.Err)
		}
	}
}

// run has all processes begin at the same moment.
func (tr *track) run(heats []heat) []entry {
	tr.t.Helper()
	tr.round++
	at := time.Now().Add(10 * time.Millisecond)
	entries := make([]entry, len(heats))
	for i, h := range heats {
		h.At, h.Schema = at.Add(rand.N(h.spread+1)), fmt.Sprintf("round%d", tr.round)
		line, err := json.Marshal(h)
		if err != nil {
			tr.t.Fatal(err)
		}
		tr.lanes[i].say(tr.t, string(line))
		entries[i] = entry{driver: tr.lanes[i].driver, heat: h}
	}
	for i, l := range tr.lanes {
		if err := json.Unmarshal([]byte(await.Value(tr.t, l.lines)), &entries[i].finish); err != nil {
			tr.t.Fatalf("a process ended in the middle of the race: %v", err)
		}
	}
	return entries
}

// report prints failures out of runs, and with which errors.
func (tr *track) report(what string, entries []entry) {
	tr.t.Helper()
	for _, guarded := range []bool{false, true} {
		runs, failures, texts := 0, 0, map[string]int{}
		for _, e := range entries {
			if e.heat.Guarded != guarded {
				continue
			}
			runs++
			if e.finish.Err != "" {
				failures++
				texts[e.driver+": "+strings.ReplaceAll(e.finish.Err, e.heat.Schema, "…")]++
			}
		}
		if runs == 0 {
			continue
		}
		tr.t.Logf("%s, guarded=%t: %d of %d failed", what, guarded, failures, runs)
		for _, text := range slices.Sorted(maps.Keys(texts)) {
			tr.t.Logf("  %4d × %s", texts[text], text)
		}
	}
}
