//go:build go1.25

package schemaguardtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/schemaguard/schemaguardtest"
)

// verdict is a test that may fail.
type verdict struct {
	t            *testing.T
	errors, logs []string
}

func (v *verdict) Helper() {}
func (v *verdict) Logf(format string, args ...any) {
	v.logs = append(v.logs, fmt.Sprintf(format, args...))
}

func (v *verdict) Errorf(format string, args ...any) {
	v.errors = append(v.errors, fmt.Sprintf(format, args...))
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	runtime.Goexit()
}

// run runs a race on a goroutine of its own, which Fatalf may end.
func (v *verdict) run(race func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		race()
	}()
	<-done
}

func (v *verdict) want(texts ...string) {
	v.t.Helper()
	if len(v.errors) != len(texts) {
		v.t.Errorf("got errors %q; want %d", v.errors, len(texts))
		return
	}
	for i, text := range texts {
		if !strings.Contains(v.errors[i], text) {
			v.t.Errorf("got error %q; want it to say %q", v.errors[i], text)
		}
	}
}

// fake is a database whose only table is not safe against two creators.
type fake struct {
	server *recdriver.Server
	mu     sync.Mutex
	pools  []*recdriver.Driver
	in     atomic.Int32
}

func newFake() *fake { return &fake{server: recdriver.NewServer()} }

func (f *fake) open() (*sql.DB, error) {
	d := f.server.Driver(recdriver.Plain)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools = append(f.pools, d)
	return d.OpenDB(), nil
}

// connected returns how many connections are open on all pools.
func (f *fake) connected() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.pools {
		n += d.Open()
	}
	return n
}

// statements returns what stood between before and after, and how often.
func (f *fake) statements(before, after string) map[string]int {
	names := map[string]int{}
	for _, d := range f.pools {
		for _, c := range d.Calls() {
			if name, ok := strings.CutPrefix(c.Query, before); ok {
				names[strings.TrimSuffix(name, after)]++
			}
		}
	}
	return names
}

// dropped returns the schemas that were dropped, and how often.
func (f *fake) dropped() map[string]int { return f.statements("DROP SCHEMA IF EXISTS ", " CASCADE") }

func (f *fake) checkClosed(t *testing.T) {
	t.Helper()
	for i, d := range f.pools {
		if n := d.Open(); n != 0 {
			t.Errorf("pool %d has %d connections open", i, n)
		}
	}
}

// racy fails when another one is inside.
func (f *fake) racy(ctx context.Context, _ *sql.DB, schema string) error {
	defer f.in.Add(-1)
	if f.in.Add(1) > 1 {
		return fmt.Errorf("type %s.t already exists", schema)
	}
	select {
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
	}
	return nil
}

func TestRacePasses(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	race := schemaguardtest.Race{Processes: 3, Rounds: 4, Guard: schemaguard.Guard{Serialize: true}}
	v.run(func() { race.Run(v, f.open, f.racy) })
	v.want()
	if len(v.logs) != 2 || !strings.Contains(v.logs[0], "without the guard, ") || !strings.Contains(v.logs[0], "already exists") ||
		!strings.Contains(v.logs[1], "with the guard, 0 of ") {
		t.Errorf("got log %q", v.logs)
	}
	if lines := strings.Count(v.logs[0], "\n"); lines != 1 {
		t.Errorf("got %d lines for one kind of error; want the schema's name left out:\n%s", lines, v.logs[0])
	}
	names := f.dropped()
	if len(names) < 8 { // more if the control group took its time
		t.Errorf("dropped %d schemas; want one in each of 8 rounds", len(names))
	}
	for name, n := range names {
		if n != 1 {
			t.Errorf("%s was dropped %d times", name, n)
		}
	}
	f.checkClosed(t)
}

// All are held back until all have their connection, and then are on their way
// at the same time: each of them waits for all others to have begun.
func TestRaceHasABarrier(t *testing.T) {
	t.Parallel()
	const n = 5
	f, v := newFake(), &verdict{t: t}
	together := func(ctx context.Context, _ *sql.DB, _ string) error {
		if open := f.connected(); open != n {
			return fmt.Errorf("started with %d of %d connections open", open, n)
		}
		for f.in.Add(1); f.in.Load()%n != 0; {
			select {
			case <-ctx.Done():
				return errors.New("alone")
			case <-time.After(time.Millisecond):
			}
		}
		return nil
	}
	race := schemaguardtest.Race{Processes: n, Rounds: 1, Guarded: together, Timeout: 20 * time.Second}
	v.run(func() { race.Run(v, f.open, together) })
	v.want("proved nothing: without the guard, 0 of 10 rounds failed")
}

func TestRaceFailsUnderTheGuard(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		race   schemaguardtest.Race
		advice bool
	}{
		"schema only": {schemaguardtest.Race{Processes: 3, Rounds: 2}, true},
		"once":        {schemaguardtest.Race{Processes: 3, Rounds: 2, Guard: schemaguard.Guard{Once: "it's refused"}}, false},
		"own": {schemaguardtest.Race{Processes: 3, Rounds: 2, Guarded: func(context.Context, *sql.DB, string) error {
			return errors.New("no luck")
		}}, false},
	} {
		f, v := newFake(), &verdict{t: t}
		v.run(func() { test.race.Run(v, f.open, f.racy) })
		v.want("failed under the guard")
		if got := strings.Contains(strings.Join(v.errors, ""), "Serialize"); got != test.advice {
			t.Errorf("%s: advises Serialize: %t; want %t: %q", name, got, test.advice, v.errors)
		}
		f.checkClosed(t)
	}
}

// A control group that never fails proves nothing: goose's own race test passed
// a hundred times out of a hundred with the lock taken out.
func TestRaceProvesNothing(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	safe := func(context.Context, *sql.DB, string) error { return nil }
	v.run(func() { schemaguardtest.Race{Processes: 2, Rounds: 3}.Run(v, f.open, safe) })
	v.want("proved nothing: without the guard, 0 of 30 rounds failed")
}

// More rounds, until the control group is seen to fail, and as many guarded.
func TestRaceGoesOnUntilTheControlGroupFails(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	var starts atomic.Int32
	seldom := func(context.Context, *sql.DB, string) error {
		if starts.Add(1) == 13 {
			return errors.New("at last")
		}
		return nil
	}
	race := schemaguardtest.Race{Processes: 2, Rounds: 2, Guarded: func(context.Context, *sql.DB, string) error { return nil }}
	v.run(func() { race.Run(v, f.open, seldom) })
	v.want()
	if len(v.logs) != 2 || !strings.Contains(v.logs[0], "1 of 7 rounds failed") || !strings.Contains(v.logs[1], "0 of 7 rounds failed") {
		t.Errorf("got log %q; want 7 rounds of either side", v.logs)
	}
}

func TestRaceCannotConnect(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	opened := 0
	open := func() (*sql.DB, error) {
		if opened++; opened == 3 {
			return nil, errors.New("too many connections")
		}
		return f.open()
	}
	v.run(func() { schemaguardtest.Race{}.Run(v, open, f.racy) })
	v.want("connection 3 of 8: too many connections")
	f.checkClosed(t)
}

func TestRaceReportsWhatStaysBehind(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	open := func() (*sql.DB, error) {
		db, err := f.open()
		f.pools[len(f.pools)-1].OnCall(recdriver.FailOn(recdriver.Exec, "DROP", 0, errors.New("not the owner")))
		return db, err
	}
	race := schemaguardtest.Race{Processes: 2, Rounds: 1, Guarded: func(context.Context, *sql.DB, string) error { return nil }}
	v.run(func() {
		race.Run(v, open, func(context.Context, *sql.DB, string) error { return errors.New("no luck") })
	})
	v.want("stays behind: not the owner", "stays behind: not the owner")
}

// A start that ends its goroutine, as t.FailNow does, has failed; one that
// closes the pool, as some migration libraries do, does no harm.
func TestRaceOddStarts(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	race := schemaguardtest.Race{Processes: 2, Rounds: 1, Guarded: func(_ context.Context, db *sql.DB, _ string) error {
		return db.Close()
	}}
	v.run(func() {
		race.Run(v, f.open, func(context.Context, *sql.DB, string) error { runtime.Goexit(); return nil })
	})
	v.want()
	if !strings.Contains(v.logs[0], "2 × the start ended its goroutine") {
		t.Errorf("got log %q", v.logs)
	}
	if n := len(f.dropped()); n != 2 {
		t.Errorf("dropped %d schemas; want 2", n)
	}
}

func TestRaceTimeout(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	hang := func(ctx context.Context, _ *sql.DB, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	}
	race := schemaguardtest.Race{Processes: 2, Rounds: 1, Timeout: time.Second, Guarded: hang}
	v.run(func() { race.Run(v, f.open, hang) })
	v.want("deadline exceeded")
	if n := len(f.dropped()); n != 2 {
		t.Errorf("dropped %d schemas; want 2: the end of a start is not that of its schema", n)
	}
}

// Code with a schema of a fixed name is raced on databases of its own, which are
// gone when the race is over.
func TestRaceOnDatabases(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	var mu sync.Mutex
	var opened []string
	open := func(database string) (*sql.DB, error) {
		mu.Lock()
		defer mu.Unlock()
		opened = append(opened, database)
		return f.open()
	}
	race := schemaguardtest.Race{Processes: 3, Rounds: 2, Guard: schemaguard.Guard{Serialize: true}}
	v.run(func() {
		race.RunDatabases(v, open, "public", func(ctx context.Context, db *sql.DB) error { return f.racy(ctx, db, "public") })
	})
	v.want()
	created, dropped := f.statements("CREATE DATABASE ", " TEMPLATE template0"), f.statements("DROP DATABASE IF EXISTS ", " WITH (FORCE)")
	if len(created) < 4 || !maps.Equal(created, dropped) {
		t.Errorf("created %v and dropped %v; want the same, one for each of 4 rounds", created, dropped)
	}
	starts := map[string]int{}
	for _, name := range opened {
		starts[name]++
	}
	if starts["postgres"] != 2*len(created) {
		t.Errorf("postgres was opened %d times; want %d", starts["postgres"], 2*len(created))
	}
	for name := range created {
		if starts[name] != 3 {
			t.Errorf("%s was opened %d times; want once for each of 3 processes", name, starts[name])
		}
	}
	if n := len(f.statements(`CREATE SCHEMA IF NOT EXISTS "`, `"`)); n != 1 {
		t.Errorf("the guard created %d schemas; want public alone", n)
	}
	f.checkClosed(t)
}

func TestRaceCannotCreateDatabase(t *testing.T) {
	t.Parallel()
	f, v := newFake(), &verdict{t: t}
	open := func(string) (*sql.DB, error) {
		db, err := f.open()
		f.pools[len(f.pools)-1].OnCall(recdriver.FailOn(recdriver.Exec, "CREATE DATABASE", 0, errors.New("permission denied")))
		return db, err
	}
	v.run(func() {
		schemaguardtest.Race{}.RunDatabases(v, open, "app", func(context.Context, *sql.DB) error { return nil })
	})
	v.want(": permission denied")
	f.checkClosed(t)
}
