package bounded

import "context"

type hooksKey struct{}

// WithHooks returns a context under which whatever waits, by this package, runs what
// comes through hooks: on the waiting goroutine and with its context, which is where
// the hooks of a trace belong. Nil ends what an outer call has begun.
func WithHooks(ctx context.Context, hooks <-chan func(context.Context)) context.Context {
	return context.WithValue(ctx, hooksKey{}, hooks)
}

func hooksOf(ctx context.Context) <-chan func(context.Context) {
	hooks, _ := ctx.Value(hooksKey{}).(<-chan func(context.Context))
	return hooks
}

// Until waits for a value from done, or for the end of ctx, and reports whether there
// was a value. Meanwhile it runs the hooks of ctx.
func Until[T any](ctx context.Context, done <-chan T) (value T, ok bool) {
	hooks := hooksOf(ctx)
	for {
		select {
		case value = <-done:
			return value, true
		case <-ctx.Done():
			return value, false
		case hook := <-hooks:
			hook(ctx)
		}
	}
}
