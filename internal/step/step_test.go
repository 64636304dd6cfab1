//go:build go1.25

package step_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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
