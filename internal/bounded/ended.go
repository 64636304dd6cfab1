package bounded

import (
	"context"
	"errors"
)

// endedError is the end of a context, with what the driver made of it: pgx
// returns the context's error, lib/pq SQLSTATE 57014, and neither its cause.
type endedError struct {
	ctx, cause, driver error
}

// Ended returns err, and if ctx has ended an error that is the same with every
// driver.
func Ended(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	if errors.Is(err, ctx.Err()) && errors.Is(err, cause) {
		return err
	}
	return &endedError{ctx.Err(), cause, err}
}

func (e *endedError) Error() string {
	text := e.ctx.Error()
	if !errors.Is(e.ctx, e.cause) {
		text += ": " + e.cause.Error()
	}
	if errors.Is(e.driver, e.ctx) || errors.Is(e.driver, e.cause) {
		return text
	}
	return text + " (" + e.driver.Error() + ")"
}

func (e *endedError) Unwrap() []error { return []error{e.ctx, e.cause, e.driver} }
