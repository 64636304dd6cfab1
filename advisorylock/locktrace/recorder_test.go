//go:build go1.25

package locktrace_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

func record(r *locktrace.Recorder, events ...locktrace.Event) {
	t := r.Trace()
	for _, e := range events {
		t.Done(context.Background(), e)
	}
}

func TestRecorderString(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for want, events := range map[string][]locktrace.Event{
		"":        nil,
		"connect": {{Step: locktrace.Connect}},
		"connect > begin > lock! > rollback > release": {
			{Step: locktrace.Connect}, {Step: locktrace.Begin}, {Step: locktrace.Lock, Err: boom}, {Step: locktrace.Rollback}, {Step: locktrace.Release},
		},
		"look > up to date > create schema > bootstrap > commit! > release > migrate": {
			{Step: locktrace.Look},
			{Step: locktrace.UpToDate},
			{Step: locktrace.CreateSchema},
			{Step: locktrace.Bootstrap},
			{Step: locktrace.Commit, Err: boom},
			{Step: locktrace.Release},
			{Step: locktrace.Migrate},
		},
	} {
		var r locktrace.Recorder
		record(&r, events...)
		if got := r.String(); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

func TestRecorderReturnsCopies(t *testing.T) {
	t.Parallel()
	var r locktrace.Recorder
	record(&r, locktrace.Event{Step: locktrace.Connect, Key: 42, Name: "app"})
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

func TestRecorderInUseByMany(t *testing.T) {
	t.Parallel()
	var r locktrace.Recorder
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			trace := r.Trace()
			trace.Done(context.Background(), locktrace.Event{Step: locktrace.Lock})
			trace.Waiting(context.Background(), locktrace.Wait{})
			_ = r.String()
			_ = r.Waits()
		})
	}
	wg.Wait()
	if len(r.Steps()) != 20 || len(r.Waits()) != 20 {
		t.Errorf("got %d steps and %d waits; want 20 of each", len(r.Steps()), len(r.Waits()))
	}
}

func TestStepError(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	err := error(&locktrace.StepError{Op: "schemaguard.Ensure", Name: "app", Step: locktrace.CreateSchema, Err: boom})
	if got, want := err.Error(), "schemaguard.Ensure app: create schema: boom"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	var failed *locktrace.StepError
	if !errors.Is(err, boom) || !errors.As(err, &failed) || failed.Step != "create schema" {
		t.Errorf("got %v; want a StepError at create schema, because of boom", err)
	}
}
