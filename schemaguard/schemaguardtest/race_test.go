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
	hook   func(context.Context, *recdriver.Call) error // of every connection, if not nil
	mu     sync.Mutex
	pools  []*recdriver.Driver
	in     atomic.Int32
}

func newFake() *fake { return &fake{server: recdriver.NewServer()} }

func (f *fake) open() (*sql.DB, error) {
	d := f.server.Driver(recdriver.Plain)
	if f.hook != nil {
		d.OnCall(f.hook)
	}
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

// races runs race on a goroutine of its own, which Fatalf may end, and checks that it
// leaves no connection open.
func (f *fake) races(t *testing.T, race func(v *verdict)) *verdict {
	t.Helper()
	v, done := &verdict{t: t}, make(chan struct{})
	go func() {
		defer close(done)
		race(v)
	}()
	<-done
	for i, d := range f.pools {
		if n := d.Open(); n != 0 {
			t.Errorf("pool %d has %d connections open", i, n)
		}
	}
	return v
}

// All are held back until all have their connection, and then are on their way
// at the same time: each of them waits for all others to have begun. A control group
// that never fails proves nothing: goose's own race test passed a hundred times out of
// a hundred with the lock taken out.
func TestRaceHasABarrier(t *testing.T) {
	t.Parallel()
	const n = 5
	f := newFake()
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
	v := f.races(t, func(v *verdict) {
		schemaguardtest.Race{Processes: n, Rounds: 1, Guarded: together, Timeout: 20 * time.Second}.Run(v, f.open, together)
	})
	v.want("proved nothing: without the guard, 0 of 10 rounds failed")
}

type boot = func(ctx context.Context, db *sql.DB, schema string) error

var errNoLuck = errors.New("no luck")

func fails(_ context.Context, _ *sql.DB, schema string) error {
	return fmt.Errorf("%w in %s", errNoLuck, schema)
}

func succeeds(context.Context, *sql.DB, string) error { return nil }

func hangs(ctx context.Context, _ *sql.DB, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// Whatever becomes of the starts, the verdict says it, equal errors are counted whatever
// the schema's name, and no schema stays behind.
func TestRaceVerdicts(t *testing.T) {
	t.Parallel()
	refused := schemaguard.Guard{Once: "it's refused"}
	const advice = "needs Guard.Serialize"
	for name, test := range map[string]struct {
		race   schemaguardtest.Race
		boot   boot
		errors []string
		log    string
	}{
		"schema only":   {schemaguardtest.Race{}, fails, []string{advice}, "4 × no luck in race_…"},
		"guard refuses": {schemaguardtest.Race{Guard: refused}, fails, []string{"the name of Once"}, ""},
		"guarded fails": {schemaguardtest.Race{Guarded: fails}, fails, []string{"failed under the guard"}, ""},
		"timeout":       {schemaguardtest.Race{Guarded: hangs, Timeout: time.Second / 2}, hangs, []string{"deadline exceeded"}, ""},
		"FailNow": {schemaguardtest.Race{Guarded: succeeds}, func(context.Context, *sql.DB, string) error {
			runtime.Goexit()
			return nil
		}, nil, "4 × the start ended its goroutine"},
		"closes the pool": {schemaguardtest.Race{Guarded: func(_ context.Context, db *sql.DB, _ string) error {
			return db.Close()
		}}, fails, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake()
			test.race.Processes, test.race.Rounds = 2, 2
			v := f.races(t, func(v *verdict) { test.race.Run(v, f.open, test.boot) })
			v.want(test.errors...)
			if got := strings.Contains(strings.Join(v.errors, ""), advice); got != (name == "schema only") {
				t.Errorf("advises Serialize: %t: %q", got, v.errors)
			}
			if !strings.Contains(v.logs[0], test.log) {
				t.Errorf("got log %q; want %q", v.logs[0], test.log)
			}
			if n := len(f.statements("DROP SCHEMA IF EXISTS ", " CASCADE")); n != 4 {
				t.Errorf("dropped %d schemas; want one in each of 4 rounds", n)
			}
		})
	}
}

// More rounds, until the control group is seen to fail, and as many guarded.
func TestRaceGoesOnUntilTheControlGroupFails(t *testing.T) {
	t.Parallel()
	f := newFake()
	var starts atomic.Int32
	seldom := func(context.Context, *sql.DB, string) error {
		if starts.Add(1) == 13 {
			return errNoLuck
		}
		return nil
	}
	v := f.races(t, func(v *verdict) {
		schemaguardtest.Race{Processes: 2, Rounds: 2, Guarded: succeeds}.Run(v, f.open, seldom)
	})
	v.want()
	if len(v.logs) != 2 || !strings.Contains(v.logs[0], "1 of 7 rounds failed") || !strings.Contains(v.logs[1], "0 of 7 rounds failed") {
		t.Errorf("got log %q; want 7 rounds of either side", v.logs)
	}
}

// What a race cannot open, create or drop it reports.
func TestRaceIsRefused(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	for _, test := range []struct {
		hook func(context.Context, *recdriver.Call) error
		want []string
	}{
		{recdriver.FailOn(recdriver.Connect, "", 3, refused), []string{"connection 2 of 2: refused"}}, // after CREATE DATABASE
		{recdriver.FailOn(recdriver.Exec, "CREATE DATABASE", 0, refused), []string{": refused"}},
		{recdriver.FailOn(recdriver.Exec, "DROP", 0, refused), []string{"stays behind: refused", "stays behind: refused"}},
	} {
		f := newFake()
		f.hook = test.hook
		race := schemaguardtest.Race{Processes: 2, Rounds: 1, Guarded: succeeds}
		v := f.races(t, func(v *verdict) {
			race.RunDatabases(v, func(string) (*sql.DB, error) { return f.open() }, "app", func(context.Context, *sql.DB) error { return errNoLuck })
		})
		v.want(test.want...)
	}
}

// Code with a schema of a fixed name is raced on databases of its own, which are
// gone when the race is over.
func TestRaceOnDatabases(t *testing.T) {
	t.Parallel()
	f := newFake()
	var mu sync.Mutex
	starts := map[string]int{}
	open := func(database string) (*sql.DB, error) {
		mu.Lock()
		defer mu.Unlock()
		starts[database]++
		return f.open()
	}
	v := f.races(t, func(v *verdict) {
		schemaguardtest.Race{Processes: 3, Rounds: 2, Guard: schemaguard.Guard{Serialize: true}}.RunDatabases(v, open, "public",
			func(ctx context.Context, db *sql.DB) error { return f.racy(ctx, db, "public") })
	})
	v.want()
	created, dropped := f.statements("CREATE DATABASE ", " TEMPLATE template0"), f.statements("DROP DATABASE IF EXISTS ", " WITH (FORCE)")
	if len(created) < 4 || !maps.Equal(created, dropped) {
		t.Errorf("created %v and dropped %v; want the same, one for each of 4 rounds", created, dropped)
	}
	want := map[string]int{"postgres": 2 * len(created)} // to create and to drop
	for name := range created {
		want[name] = 3 // processes
	}
	if !maps.Equal(starts, want) {
		t.Errorf("opened %v; want %v", starts, want)
	}
	if n := len(f.statements(`CREATE SCHEMA IF NOT EXISTS "`, `"`)); n != 1 {
		t.Errorf("the guard created %d schemas; want public alone", n)
	}
}
