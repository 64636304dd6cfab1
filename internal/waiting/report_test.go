//go:build go1.25

package waiting_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/waiting"
)

// bubble runs test, in parallel, on a clock that moves only when every goroutine waits.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

type stepKey struct{}

// told keeps what a hook was told, and how it was called.
type told struct {
	waits []locktrace.Wait
	at    []time.Duration // how long the wait had lasted
	how   []string
}

func (l *told) hook(ctx context.Context, w locktrace.Wait) {
	l.waits, l.at = append(l.waits, w), append(l.at, w.Waited)
	l.how = append(l.how, fmt.Sprintf("goroutine %s, step %v", goroutine(), ctx.Value(stepKey{})))
}

func (l *told) want(t *testing.T, at ...time.Duration) {
	t.Helper()
	if fmt.Sprint(l.at) != fmt.Sprint(at) {
		t.Errorf("told after %v; want %v", l.at, at)
	}
}

func goroutine() string {
	stack := make([]byte, 64)
	return strings.Fields(string(stack[:runtime.Stack(stack, false)]))[1]
}

var holder = locktrace.Session{PID: 7}

func look(context.Context) ([]locktrace.Session, error) { return []locktrace.Session{holder}, nil }

// begin begins a wait with hook, which its test has to end.
func begin(ctx context.Context, hook func(context.Context, locktrace.Wait), look func(context.Context) ([]locktrace.Session, error)) (context.Context, *waiting.Report) {
	return waiting.Begin(ctx, &locktrace.Trace{Waiting: hook}, locktrace.Wait{Key: 42, Name: "app"}, look)
}

// forAWhile waits as waiters do.
func forAWhile(ctx context.Context, d time.Duration) { _, _ = bounded.Until(ctx, time.After(d)) }

// Reports come in time even while the driver hangs in a single call, with the context
// of the step that waits and on its goroutine.
func TestReportsDuringACall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var l told
		ctx, report := begin(t.Context(), l.hook, look)
		_ = bounded.Do(context.WithValue(ctx, stepKey{}, "lock"), func() error { time.Sleep(30 * time.Second); return nil })
		l.want(t, time.Second, 11*time.Second, 21*time.Second)
		report.End()
		forAWhile(ctx, time.Hour)
		l.want(t, time.Second, 11*time.Second, 21*time.Second)

		w := l.waits[0]
		if w.Key != 42 || w.Name != "app" || len(w.Holders) != 1 || w.Holders[0].PID != holder.PID || w.Err != nil {
			t.Errorf("told %+v; want the key, the name and the holder", w)
		}
		for _, how := range l.how {
			if want := "goroutine " + goroutine() + ", step lock"; how != want {
				t.Errorf("told on %s; want %s", how, want)
			}
		}
	})
}

// A report that was due, and not heard, is dropped with the end of the wait.
func TestNoReportAfterEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, unheard := range []time.Duration{0, 2 * time.Second, 25 * time.Second} {
			var l told
			ctx, report := begin(t.Context(), l.hook, look)
			time.Sleep(unheard)
			synctest.Wait()
			for range 2 { // the second does nothing
				report.End()
			}
			for range 10 { // Until chooses at random among what is ready
				forAWhile(ctx, 0)
			}
			l.want(t)
		}
	})
}

func TestEndWaitsForTheLook(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var l told
		over := false
		ctx, report := begin(t.Context(), l.hook, func(ctx context.Context) ([]locktrace.Session, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // a driver needs a moment to come back
			over = true
			return nil, ctx.Err()
		})
		forAWhile(ctx, 2*time.Second)
		began := time.Now()
		report.End()
		if took := time.Since(began); !over || took != time.Second {
			t.Errorf("End took %v; want it to end the look, and to wait for that", took)
		}
		l.want(t)
	})
}

func TestLookThatTakesLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var l told
		ctx, report := begin(t.Context(), l.hook, func(ctx context.Context) ([]locktrace.Session, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		defer report.End()
		forAWhile(ctx, 7*time.Second)
		l.want(t, 6*time.Second)
		if w := l.waits[0]; w.Err != nil || w.Holders != nil {
			t.Errorf("told %+v; want that nothing could be found out", w)
		}
	})
}

// What hooks spend is nobody's poll.
func TestHooksCountForNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, report := begin(t.Context(), func(context.Context, locktrace.Wait) { time.Sleep(3 * time.Second) }, look)
		defer report.End()
		whole := report.Since()
		forAWhile(ctx, 5*time.Second)
		part := report.Since()
		forAWhile(ctx, time.Second)
		if waited, whole, part := report.Waited(), whole(), part(); waited != 6*time.Second || whole != 3*time.Second || part != time.Second {
			t.Errorf("waited %v, and without hooks %v, %v of it at the end; want 6s, 3s, 1s", waited, whole, part)
		}
	})
}

func TestWaitErr(t *testing.T) {
	errLook := fmt.Errorf("look: %w", errBoom)
	bubble(t, func(t *testing.T) {
		for name, tt := range map[string]struct {
			because error
			holders []locktrace.Session
			lookErr error
			want    error
			looks   int
		}{
			"found":                      {nil, []locktrace.Session{holder}, nil, nil, 1},
			"the look failed":            {nil, nil, errLook, errLook, 1},
			"it failed, but found":       {nil, []locktrace.Session{holder}, errLook, nil, 1},
			"there is no connection yet": {errBoom, []locktrace.Session{holder}, nil, errBoom, 0},
		} {
			var l told
			looks := 0
			ctx, report := begin(t.Context(), l.hook, func(context.Context) ([]locktrace.Session, error) {
				looks++
				return tt.holders, tt.lookErr
			})
			report.Because(tt.because)
			forAWhile(ctx, 2*time.Second)
			report.End()
			if len(l.waits) != 1 || l.waits[0].Err != tt.want || looks != tt.looks { //nolint:errorlint // itself
				t.Errorf("%s: told %+v after %d looks; want error %v after %d", name, l.waits, looks, tt.want, tt.looks)
			}
		}
	})
}

// Without a hook, nothing is looked up.
func TestNoHookNoLook(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, trace := range []*locktrace.Trace{nil, {}} {
			ctx, report := waiting.Begin(t.Context(), trace, locktrace.Wait{}, func(context.Context) ([]locktrace.Session, error) {
				t.Error("looked")
				return nil, nil
			})
			forAWhile(ctx, time.Minute)
			if got := report.Waited(); got != time.Minute {
				t.Errorf("waited %v; want a minute", got)
			}
			report.End()
		}
	})
}

// A wait within another one, as in a callback, leaves the outer reports to the
// goroutine that waits: its own look does not run them.
func TestWaitWithinAWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var outer, inner told
		outerCtx, outerReport := begin(t.Context(), outer.hook, look)
		defer outerReport.End()
		time.Sleep(500 * time.Millisecond)
		innerCtx, innerReport := begin(outerCtx, inner.hook, func(ctx context.Context) ([]locktrace.Session, error) {
			forAWhile(ctx, time.Second)
			return nil, nil
		})
		forAWhile(innerCtx, 3*time.Second)
		innerReport.End()
		inner.want(t, 2*time.Second)
		forAWhile(outerCtx, time.Second)
		outer.want(t, 3500*time.Millisecond)
		if want := "goroutine " + goroutine() + ", step <nil>"; outer.how[0] != want {
			t.Errorf("told on %s; want %s", outer.how[0], want)
		}
	})
}
