// Package step runs one step of a traced operation between its hooks.
package step

import (
	"context"
	"errors"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

var errAbrupt = errors.New("panicked or ended its goroutine")

// Do runs fn as the step that e names and returns its error. Done is called
// even if fn panics or calls runtime.Goexit.
func Do(ctx context.Context, t *locktrace.Trace, e locktrace.Event, fn func(ctx context.Context) error) error {
	if t == nil {
		return fn(ctx)
	}
	if t.Start != nil {
		if started := t.Start(ctx, e); started != nil {
			ctx = started
		}
	}
	if t.Done != nil {
		begun := time.Now()
		e.Err = errAbrupt
		defer func() {
			e.Duration = time.Since(begun)
			t.Done(ctx, e)
		}()
	}
	e.Err = fn(ctx)
	return e.Err
}
