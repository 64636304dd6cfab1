package locktrace_test

import (
	"context"
	"testing"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

type joinKey struct{}

// Each trace sees every event, in the order in which they were joined, and each Start
// gets the context of the one before.
func TestJoin(t *testing.T) {
	t.Parallel()
	seen := ""
	trace := func(name string) *locktrace.Trace {
		return &locktrace.Trace{
			Start: func(ctx context.Context, _ locktrace.Event) context.Context {
				before, _ := ctx.Value(joinKey{}).(string)
				seen += before + name + "-start "
				return context.WithValue(ctx, joinKey{}, before+name)
			},
			Done:    func(context.Context, locktrace.Event) { seen += name + "-done " },
			Waiting: func(context.Context, locktrace.Wait) { seen += name + "-waiting " },
		}
	}
	joined := locktrace.Join(nil, trace("a"), &locktrace.Trace{}, trace("b"))
	ctx := joined.Start(context.Background(), locktrace.Event{})
	joined.Waiting(ctx, locktrace.Wait{})
	joined.Done(ctx, locktrace.Event{})
	if want := "a-start ab-start a-waiting b-waiting a-done b-done "; seen != want {
		t.Errorf("got %q; want %q", seen, want)
	}
	if got, _ := ctx.Value(joinKey{}).(string); got != "ab" {
		t.Errorf("got context %q; want that of both", got)
	}
	if locktrace.Join(nil, &locktrace.Trace{}).Waiting != nil {
		t.Error("got a Waiting of nobody's; want nil, which costs no look at pg_locks")
	}
}
