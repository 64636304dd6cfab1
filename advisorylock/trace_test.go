//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

type stepKey struct{}

// Spans nest: what Start returns is what the driver gets in that step, and what
// Done gets. The function runs outside any step, with a context made from the
// caller's.
func TestStartContextReachesTheDriverAndDone(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		var log []string
		step := func(ctx context.Context) any { return ctx.Value(stepKey{}) }
		trace := &locktrace.Trace{
			Start: func(ctx context.Context, e locktrace.Event) context.Context {
				if step(ctx) != nil {
					t.Errorf("%s began inside step %v", e.Step, step(ctx))
				}
				log = append(log, fmt.Sprintf("start %s", e.Step))
				return context.WithValue(ctx, stepKey{}, e.Step)
			},
			Done: func(ctx context.Context, e locktrace.Event) {
				log = append(log, fmt.Sprintf("done %s in %v", e.Step, step(ctx)))
			},
		}
		d.OnCall(func(ctx context.Context, c *recdriver.Call) error {
			switch c.Kind {
			case recdriver.Connect, recdriver.Begin, recdriver.Exec: // the others get no context
				log = append(log, fmt.Sprintf("%s in %v", c.Kind, step(ctx)))
			}
			return nil
		})
		type callerKey struct{}
		caller := context.WithValue(t.Context(), callerKey{}, "caller")
		err := f.call(advisorylock.Locker{Trace: trace}, caller, db, key, func(ctx context.Context) error {
			log = append(log, fmt.Sprintf("function in %v, from %v", step(ctx), ctx.Value(callerKey{})))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"start connect", "connect in connect", "done connect in connect",
			"start begin", "begin in begin", "done begin in begin",
			"start lock", "exec in lock", "done lock in lock",
			"function in <nil>, from caller",
			"start commit", "done commit in commit",
			"start release", "done release in release",
		}
		if got := strings.Join(log, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	})
}

func TestEventsSayWhat(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		const wait = 200 * time.Millisecond
		time.AfterFunc(wait, lockElsewhere(t, d, key))
		boom := errors.New("boom")
		d.OnCall(recdriver.FailOn(recdriver.Commit, "", 1, boom))
		var started []locktrace.Event
		var r locktrace.Recorder
		trace := r.Trace()
		trace.Start = func(_ context.Context, e locktrace.Event) context.Context {
			started = append(started, e)
			return nil // stands for the one passed in
		}
		_ = f.call(advisorylock.Locker{Trace: trace, Name: "app"}, t.Context(), db, key, noFn)
		steps := r.Steps()
		if len(steps) != len(started) {
			t.Fatalf("%d steps started, %d done", len(started), len(steps))
		}
		for i, e := range steps {
			if e.Key != int64(key) || e.Name != "app" {
				t.Errorf("%s: got key %d, name %q; want 42, app", e.Step, e.Key, e.Name)
			}
			if s := started[i]; s != (locktrace.Event{Step: e.Step, Key: e.Key, Name: e.Name}) {
				t.Errorf("got %+v at the start of %s; want no duration and no error yet", s, e.Step)
			}
			want := time.Duration(0)
			if e.Step == locktrace.Lock {
				want = wait
			}
			if e.Duration != want {
				t.Errorf("%s: got %v; want %v", e.Step, e.Duration, want)
			}
			if failed := e.Step == locktrace.Commit; failed != errors.Is(e.Err, boom) || failed != (e.Err != nil) {
				t.Errorf("%s: got error %v", e.Step, e.Err)
			}
		}
	})
}

// No hook is called once the call has returned, not even for a connection that
// is still being finished off.
func TestNoHookAfterReturn(t *testing.T) {
	t.Parallel()
	for _, kind := range []recdriver.Kind{recdriver.Connect, recdriver.Begin, recdriver.Exec, recdriver.Commit, recdriver.Close} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				db.SetMaxIdleConns(-1)
				comeBack := hang(d, kind)
				var returned atomic.Bool
				check := func(what any) {
					if returned.Load() {
						t.Errorf("%v after the call had returned", what)
					}
				}
				trace := &locktrace.Trace{
					Start: func(ctx context.Context, e locktrace.Event) context.Context {
						check("Start " + e.Step)
						return ctx
					},
					Done:    func(_ context.Context, e locktrace.Event) { check("Done " + e.Step) },
					Waiting: func(context.Context, locktrace.Wait) { check("Waiting") },
				}
				_, _ = cancelDuring(t, d, kind, func(ctx context.Context) error {
					return f.call(advisorylock.Locker{Trace: trace}, ctx, db, key, noFn)
				})
				returned.Store(true)
				comeBack()
				synctest.Wait()
			})
		})
	}
}

// t.Fatal in a hook of a test ends the goroutine, and a hook may panic. That is
// the caller's affair; the connection and the lock are not.
func TestHookThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	ends := map[string]func(){"panic": func() { panic("hook") }, "Goexit": runtime.Goexit}
	want := map[string]outcome{"panic": {panicked: "hook"}, "Goexit": {exited: true}}
	for name, end := range ends {
		for _, at := range []locktrace.Step{locktrace.Connect, locktrace.Begin, locktrace.Lock, locktrace.Commit, locktrace.Rollback, locktrace.Release} {
			hooks := map[string]*locktrace.Trace{
				"Start": {Start: func(ctx context.Context, e locktrace.Event) context.Context {
					if e.Step == at {
						end()
					}
					return ctx
				}},
				"Done": {Done: func(_ context.Context, e locktrace.Event) {
					if e.Step == at {
						end()
					}
				}},
			}
			for hook, trace := range hooks {
				t.Run(fmt.Sprintf("%s/%s/%s", name, hook, at), func(t *testing.T) {
					t.Parallel()
					each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
						var fnErr error
						if at == locktrace.Rollback {
							fnErr = errors.New("boom")
						}
						begun := time.Now()
						got := run(func() error {
							return f.call(advisorylock.Locker{Trace: trace}, t.Context(), db, key, func(context.Context) error { return fnErr })
						})
						checkSame(t, "outcome", got, want[name])
						checkSame(t, "time taken", time.Since(begun), 0)
					})
				})
			}
		}
	}
}

// A driver that panics in the lock statement does so on the goroutine of the
// caller, who may recover. In BEGIN and COMMIT database/sql itself does not
// survive it: it keeps a mutex of the sql.Conn.
func TestDriverPanics(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.OnCall(recdriver.PanicOn(recdriver.Exec, "", 1, "driver"))
		begun := time.Now()
		got := run(func() error { return f.call(advisorylock.Locker{}, t.Context(), db, key, noFn) })
		checkSame(t, "outcome", got, outcome{panicked: "driver"})
		checkSame(t, "time taken", time.Since(begun), 0)
	})
}

func TestWaitingHookThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	for where, from := range places {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				free := from.lock(t, d, db)
				l := advisorylock.Locker{Trace: &locktrace.Trace{Waiting: func(context.Context, locktrace.Wait) { panic("hook") }}}
				first := make(chan outcome)
				go func() {
					first <- run(func() error { return f.call(l, t.Context(), db, key, noFn) })
				}()
				synctest.Wait()
				// One that leaves the queue by a panic leaves no ghost behind that gets a turn.
				behind := queued(1, func(int) {
					if err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn); err != nil {
						t.Errorf("behind it: got %v; want its turn", err)
					}
				})
				checkSame(t, "outcome", <-first, outcome{panicked: "hook"})
				free()
				behind()
			})
		})
	}
}

// A hook that panics while the driver is still at work leaves its connection to nobody:
// it is closed when the driver comes back.
func TestWaitingHookThatDoesNotReturnLeavesNoConnection(t *testing.T) {
	t.Parallel()
	for _, kind := range []recdriver.Kind{recdriver.Connect, recdriver.Begin} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				d.OnCall(recdriver.DelayOn(kind, "", 20*time.Second))
				trace := &locktrace.Trace{Waiting: func(context.Context, locktrace.Wait) { panic("hook") }}
				got := run(func() error {
					return f.call(advisorylock.Locker{Trace: trace}, context.Background(), db, key, noFn)
				})
				if want := (outcome{panicked: "hook"}); got != want {
					t.Errorf("got %+v; want %+v", got, want)
				}
				time.Sleep(time.Minute) // and nothingLeft looks for the connection
			})
		})
	}
}
