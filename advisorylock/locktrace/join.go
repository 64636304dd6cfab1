package locktrace

import "context"

// Join returns hooks that call those of all traces, in their order: Start of each with
// the context that the one before returned. Nil traces are left out.
func Join(traces ...*Trace) *Trace {
	return &Trace{
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
		Waiting: joinWaiting(traces),
	}
}

// joinWaiting is nil if nobody listens, since each call costs a look at pg_locks.
func joinWaiting(traces []*Trace) func(ctx context.Context, w Wait) {
	var hooks []func(ctx context.Context, w Wait)
	for _, t := range traces {
		if t != nil && t.Waiting != nil {
			hooks = append(hooks, t.Waiting)
		}
	}
	if hooks == nil {
		return nil
	}
	return func(ctx context.Context, w Wait) {
		for _, hook := range hooks {
			hook(ctx, w)
		}
	}
}
