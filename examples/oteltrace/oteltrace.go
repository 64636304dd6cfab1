// Package oteltrace shows a start-up as OpenTelemetry spans: connect, lock with
// the wait for it, create schema, migrate. It is an example to copy, since the
// guard itself depends on nothing.
package oteltrace

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// Trace makes each step a span of tracer, below the span of the context that
// Ensure is called with. The span of the lock lasts as long as the wait for it,
// and has an event that names who is in the way. Spans that migrate starts from
// its context nest below the span migrate.
func Trace(tracer trace.Tracer) *locktrace.Trace {
	return &locktrace.Trace{
		Start: func(ctx context.Context, e locktrace.Event) context.Context {
			ctx, _ = tracer.Start(ctx, string(e.Step), trace.WithAttributes(
				attribute.String("bootlock.name", e.Name),
				attribute.Int64("bootlock.key", e.Key),
			))
			return ctx
		},
		Done: func(ctx context.Context, e locktrace.Event) {
			span := trace.SpanFromContext(ctx)
			if e.Err != nil {
				span.RecordError(e.Err)
				span.SetStatus(codes.Error, e.Err.Error())
			}
			span.End()
		},
		Waiting: func(ctx context.Context, w locktrace.Wait) {
			holders := make([]string, len(w.Holders))
			for i, h := range w.Holders {
				holders[i] = h.String()
			}
			trace.SpanFromContext(ctx).AddEvent("waiting", trace.WithAttributes(
				attribute.String("bootlock.waited", w.Waited.String()),
				attribute.StringSlice("bootlock.holders", holders),
			))
		},
	}
}
