package locktrace

import (
	"context"
	"slices"
)

// Join returns hooks that call those of all traces, in their order: Start of each with
// the context that the one before returned. Nil traces are left out.
func Join(traces ...*Trace) *Trace {
	joined := &Trace{
		Start: func(ctx context.Context, e Event) context.Context {
			for _, t := range traces {
				if t == nil || t.Start == nil {
					continue
				}
				if started := t.Start(ctx, e); started != nil {
					ctx = started
				}
			}
			return ctx
		},
		Done: func(ctx context.Context, e Event) {
			for _, t := range traces {
				if t != nil && t.Done != nil {
					t.Done(ctx, e)
				}
			}
		},
	}
	listens := func(t *Trace) bool { return t != nil && t.Waiting != nil }
	if !slices.ContainsFunc(traces, listens) {
		return joined // each call of Waiting costs a look at pg_locks
	}
	joined.Waiting = func(ctx context.Context, w Wait) {
		for _, t := range traces {
			if listens(t) {
				t.Waiting(ctx, w)
			}
		}
	}
	return joined
}
