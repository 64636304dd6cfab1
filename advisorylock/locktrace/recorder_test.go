//go:build go1.25

package locktrace_test

import (
	"context"
	"testing"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

func TestRecorderReturnsCopies(t *testing.T) {
	t.Parallel()
	var r locktrace.Recorder
	r.Trace().Done(context.Background(), locktrace.Event{Step: locktrace.Connect, Key: 42, Name: "app"})
	r.Trace().Waiting(context.Background(), locktrace.Wait{Key: 42, Name: "app"})
	steps, waits := r.Steps(), r.Waits()
	if len(steps) != 1 || steps[0].Key != 42 || len(waits) != 1 || waits[0].Name != "app" {
		t.Fatalf("got %+v and %+v; want one of each", steps, waits)
	}
	steps[0].Step, waits[0].Key = "changed", 7
	if r.String() != "connect" || r.Waits()[0].Key != 42 {
		t.Errorf("got %s and %+v; want what was recorded", r.String(), r.Waits())
	}
}
