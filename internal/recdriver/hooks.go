package recdriver

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// FailOn returns a hook that fails the nth call that matches with err, or every
// one if n is 0. As with the other hooks, an empty kind matches every call, and
// so does an empty substr of the statement. One hook counts for all drivers
// that it is added to.
func FailOn(kind Kind, substr string, n int, err error) func(context.Context, *Call) error {
	return onNth(kind, substr, n, func(context.Context) error { return err })
}

// PanicOn returns a hook that panics with v in the nth call that matches, or in
// every one if n is 0.
func PanicOn(kind Kind, substr string, n int, v any) func(context.Context, *Call) error {
	return onNth(kind, substr, n, func(context.Context) error { panic(v) })
}

// DelayOn returns a hook that delays every call that matches by delay, ignoring
// its ctx.
func DelayOn(kind Kind, substr string, delay time.Duration) func(context.Context, *Call) error {
	return onNth(kind, substr, 0, func(context.Context) error {
		time.Sleep(delay)
		return nil
	})
}

// HangOn returns a hook that hangs every call that matches until release is
// closed, ignoring its ctx: a driver that does not come back.
func HangOn(kind Kind, substr string, release <-chan struct{}) func(context.Context, *Call) error {
	return onNth(kind, substr, 0, func(context.Context) error {
		<-release
		return nil
	})
}

// BlockOn returns a hook that hangs every call that matches until release is
// closed or its ctx is done, and then fails it with the ctx's error: a driver
// that does come back.
func BlockOn(kind Kind, substr string, release <-chan struct{}) func(context.Context, *Call) error {
	return onNth(kind, substr, 0, func(ctx context.Context) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func onNth(kind Kind, substr string, n int, do func(context.Context) error) func(context.Context, *Call) error {
	var seen atomic.Int64
	return func(ctx context.Context, c *Call) error {
		if !c.matches(kind, substr) {
			return nil
		}
		if i := seen.Add(1); n != 0 && i != int64(n) {
			return nil
		}
		return do(ctx)
	}
}

// After makes a hook fail a call *after* the backend did what was asked: the
// answer is lost, and err takes its place. A COMMIT failed this way is
// committed. A connection or a transaction that the caller never gets to see is
// closed.
func After(err error) error { return &afterError{err: err} }

// Later makes a hook delay the answer to a call: the backend does at once what
// was asked, and the call comes back, with the backend's own answer, when wait
// does.
func Later(wait func()) error { return &afterError{wait: wait} }

type afterError struct {
	err  error
	wait func()
}

func (e *afterError) Error() string { return fmt.Sprint(e.err) }
