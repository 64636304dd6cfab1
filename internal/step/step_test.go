//go:build go1.25

package step_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/step"
)

var (
	errBoom = errors.New("boom")
	event   = locktrace.Event{Step: locktrace.Lock, Key: 42, Name: "app"}
)

func TestNoTrace(t *testing.T) {
	t.Parallel()
	for name, trace := range map[string]*locktrace.Trace{"nil": nil, "no hooks": {}} {
		err := step.Do(t.Context(), trace, event, func(ctx context.Context) error {
			if ctx != t.Context() {
				t.Errorf("%s: got another context", name)
			}
			return errBoom
		})
		if err != errBoom { //nolint:errorlint // untouched
			t.Errorf("%s: got %v; want %v", name, err, errBoom)
		}
	}
}

func TestDoneIsCalledHoweverTheStepEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		fn     func() error
		err    string
		abrupt bool
	}{
		{"success", func() error { return nil }, "<nil>", false},
		{"error", func() error { return errBoom }, "boom", false},
		{"panic", func() error { panic(errBoom) }, "panicked or ended its goroutine", true},
		{"Goexit", func() error { runtime.Goexit(); return nil }, "panicked or ended its goroutine", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var done []locktrace.Event
				trace := &locktrace.Trace{Done: func(_ context.Context, e locktrace.Event) { done = append(done, e) }}
				returned := false
				exit := make(chan any)
				go func() {
					defer func() { exit <- recover() }()
					_ = step.Do(t.Context(), trace, event, func(context.Context) error {
						time.Sleep(time.Minute)
						return tt.fn()
					})
					returned = true
				}()
				panicked := <-exit
				if returned == tt.abrupt {
					t.Errorf("came back: %t; want %t", returned, !tt.abrupt)
				}
				if want := tt.name == "panic"; (panicked == errBoom) != want { //nolint:errorlint // the very value
					t.Errorf("got panic %v; want it to go on: %t", panicked, want)
				}
				if len(done) != 1 {
					t.Fatalf("got %d calls of Done; want 1", len(done))
				}
				got := done[0]
				if fmt.Sprint(got.Err) != tt.err {
					t.Errorf("got error %v; want %s", got.Err, tt.err)
				}
				if got.Err = nil; got != (locktrace.Event{Step: event.Step, Key: 42, Name: "app", Duration: time.Minute}) {
					t.Errorf("got %+v; want the step's event, with the time it took", got)
				}
			})
		})
	}
}

func TestStartMakesTheContextOfTheStep(t *testing.T) {
	t.Parallel()
	type key struct{}
	for name, want := range map[string]any{"derived": "span", "nil": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log []string
			note := func(what string, ctx context.Context) { log = append(log, fmt.Sprint(what, " ", ctx.Value(key{}))) }
			trace := &locktrace.Trace{
				Start: func(ctx context.Context, e locktrace.Event) context.Context {
					note("start", ctx)
					if e != event {
						t.Errorf("got %+v; want %+v", e, event)
					}
					if want == nil {
						return nil
					}
					return context.WithValue(ctx, key{}, want)
				},
				Done: func(ctx context.Context, _ locktrace.Event) { note("done", ctx) },
			}
			err := step.Do(t.Context(), trace, event, func(ctx context.Context) error {
				note("step", ctx)
				return nil
			})
			if got, want := log, []string{"start <nil>", fmt.Sprint("step ", want), fmt.Sprint("done ", want)}; err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

func TestStartWithoutDone(t *testing.T) {
	t.Parallel()
	started := false
	trace := &locktrace.Trace{Start: func(ctx context.Context, _ locktrace.Event) context.Context { started = true; return ctx }}
	if err := step.Do(t.Context(), trace, event, func(context.Context) error { return errBoom }); err != errBoom || !started { //nolint:errorlint // untouched
		t.Errorf("got %v, started: %t; want %v, true", err, started, errBoom)
	}
}
