//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

func (f *fixture) await(ctx context.Context, g schemaguard.Guard) error {
	g.Trace = f.rec.Trace()
	return g.Await(ctx, f.db, "app")
}

// It goes on within a pause when the row is there, whoever has locks meanwhile, and
// sends nothing but its question: after one that failed it asks the catalog, which
// keeps the server's log quiet.
func TestAwaitOnce(t *testing.T) {
	each(t, map[string]time.Duration{"soon": 2 * time.Second, "late": time.Minute}, func(t *testing.T, wait time.Duration) {
		f := newFixture(t, 1)
		began := time.Now()
		time.AfterFunc(wait/2, func() { f.world.set(true) })
		time.AfterFunc(wait, func() { f.world.set(true, "v1") })
		f.world.holding(t, migrateApp, func() {
			if err := (schemaguard.Guard{Once: "v1"}).Await(t.Context(), f.db, "app"); err != nil {
				t.Error(err)
			}
		})
		if late := time.Since(began) - wait; late > max(wait/10, 20*time.Millisecond) || late > time.Second {
			t.Errorf("went on %v late", late)
		}
		sent := slices.DeleteFunc(f.sent(), func(s string) bool { return strings.Contains(s, "pg_stat_get_activity") })
		if n := len(sent); n > 100+int(4*wait/time.Second) {
			t.Errorf("asked %d times in %v", n, wait)
		}
		if got := slices.Compact(sent); !slices.Equal(got, []string{askV1, mayApp("SELECT"), askV1}) {
			t.Errorf("sent %q; want the question, the catalog while there is no table, and the question", got)
		}
	})
}

// A table, schema, column, function, type or right that is not there yet is what a
// worker that comes first finds; any other error ends the wait.
func TestAwaitErrors(t *testing.T) {
	type test struct {
		err  error // each answer
		asks int   // until the last
		last error
		step string
	}
	tests := map[string]test{
		"at the start": {nil, 1, errBoom, "up to date"},
		"session":      {driver.ErrBadConn, 4, errBoom, "await"},
		"words":        {recdriver.SQLError{Code: "42P01"}, 2, errors.New("too many connections"), "await"},
	}
	for _, code := range []string{"42P01", "3F000", "42703", "42883", "42704", "42501", "26000", "42P05"} {
		tests[code] = test{recdriver.SQLError{Code: code}, 4, errBoom, ""}
	}
	each(t, tests, func(t *testing.T, test test) {
		f := newFixture(t, 1)
		asked := 0
		err := f.await(t.Context(), schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) {
			if asked++; asked == test.asks {
				return true, test.last
			}
			return true, test.err
		}})
		wantText(t, err, "schemaguard.Await app: "+test.step)
		if !errors.Is(err, test.last) || asked != test.asks {
			t.Errorf("asked %d times, until %v; want %d, until %v", asked, err, test.asks, test.last)
		}
	})
}

// A worker that waits has nothing to lose by a session that ends or goes silent, or by a
// server that has no connection for it.
func TestAwaitOutlivesItsSession(t *testing.T) {
	calls := 0
	each(t, map[string]func(context.Context, *recdriver.Call) error{
		"session ends":  recdriver.FailOn(recdriver.Exec, "SELECT 1", 3, driver.ErrBadConn),
		"no connection": recdriver.FailOn(recdriver.Exec, "SELECT 1", 3, recdriver.SQLError{Code: "53300"}),
		"no answer": func(ctx context.Context, call *recdriver.Call) error {
			if call.Kind == recdriver.Exec {
				if calls++; calls == 3 {
					<-ctx.Done()
				}
			}
			return ctx.Err()
		},
	}, func(t *testing.T, hook func(context.Context, *recdriver.Call) error) {
		f := newFixture(t, 1)
		f.world.set(true)
		f.OnCall(hook)
		time.AfterFunc(5*time.Second, func() { f.world.set(true, "v1") })
		if err := f.await(t.Context(), schemaguard.Guard{Once: "v1"}); err != nil {
			t.Errorf("got %v; want it to ask on", err)
		}
		f.wantOrder(t, "up to date > await")
	})
}

// Where connections are short it keeps none between two questions, on the pool that it
// asks on.
func TestAwaitWhenShort(t *testing.T) {
	each(t, map[string]bool{"db": false, "LockDB": true}, func(t *testing.T, own bool) {
		w := newWorld()
		f, locks := w.process(t, recdriver.Plain, 1), w.process(t, recdriver.Plain, 1)
		w.table = true
		w.SetShort(true)
		g, asked := schemaguard.Guard{Once: "v1"}, f
		if own {
			g.LockDB, asked = locks.db, locks
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			for at := range 50 {
				time.Sleep(time.Second + time.Millisecond)
				if n := asked.Open(); at > 3 && n > 0 && asked.db.Stats().InUse == 0 {
					t.Errorf("%d connections are open between two questions", n)
				}
			}
		}()
		_ = g.Await(ctx, f.db, "app")
		if len(asked.sent()) < 10 {
			t.Errorf("sent %q", asked.sent())
		}
	})
}

// A wait is told of, with who migrates or why there is no answer yet, and its error
// says the same.
func TestAwaitTellsWhy(t *testing.T) {
	type test struct {
		guard      schemaguard.Guard
		told, text string
	}
	each(t, map[string]test{
		"somebody migrates": {schemaguard.Guard{UpToDate: answer(false)}, "[deploy] <nil>", "there is still something to migrate after 30s"},
		"no table":          {schemaguard.Guard{Once: "v1"}, "[] the table bootlock_once", "does not exist yet, or this role may not read it yet after 30s"},
	}, func(t *testing.T, test test) {
		f := newFixture(t, 2)
		f.OnQuery(func(recdriver.Call) ([]string, [][]driver.Value, error) {
			columns := []string{"pid", "application", "user", "host", "port", "state", "since", "query", "granted", "blocked by", "this key"}
			return columns, [][]driver.Value{
				{int64(4711), "deploy", "app", "", int64(-1), "idle in transaction", 0.0, "", true, "", true},
				{int64(4712), "worker", "app", "", int64(-1), "active", 0.0, "", false, "", true},
			}, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := f.await(ctx, test.guard)
		wantText(t, err, "schemaguard.Await app: await: context deadline exceeded", test.text)
		f.wantOrder(t, "up to date > await!")
		var at []time.Duration
		for _, w := range f.rec.Waits() {
			at = append(at, w.Waited.Round(time.Second))
			holders := []string{}
			for _, h := range w.Holders {
				holders = append(holders, h.Application)
			}
			if got := fmt.Sprint(holders, w.Err); w.Name != "app" || w.For != locktrace.Migrate || w.Key != int64(migrateApp) || !strings.HasPrefix(got, test.told) {
				t.Errorf("told %s of %+v; want %s, of migrate's lock", got, w, test.told)
			}
		}
		if !slices.Equal(at, []time.Duration{time.Second, 11 * time.Second, 21 * time.Second}) {
			t.Errorf("told after %v; want after a second, and every ten from then on", at)
		}
	})
}
