//go:build go1.25

package locktrace_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// A migrate that takes an hour must not look like one that hangs. No line comes after
// its end, nor after that of its context if a hook in front forgot Done.
func TestLogSaysThatMigrateIsRunning(t *testing.T) {
	t.Parallel()
	const minutes = "level=INFO msg=\"bootlock: migrate is running\" lock=app running=1m0s\n" +
		"level=INFO msg=\"bootlock: migrate is running\" lock=app running=2m0s\n"
	for name, test := range map[string]struct {
		step   locktrace.Step
		forget bool // to call Done
		want   string
	}{
		"migrate":            {locktrace.Migrate, false, minutes},
		"migrate, no Done":   {locktrace.Migrate, true, minutes},
		"a step of Ensure's": {locktrace.Bootstrap, false, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var b bytes.Buffer
			trace := locktrace.Log(textLogger(&b))
			e := locktrace.Event{Step: test.step, Name: "app", Key: 42}
			started := trace.Start(ctx, e)
			// A whole call inside of migrate, with steps of its own.
			step(&locktrace.Trace{
				Start: func(_ context.Context, e locktrace.Event) context.Context { return trace.Start(started, e) },
				Done:  trace.Done,
			}, locktrace.Event{Step: locktrace.Commit}, nil)
			time.Sleep(150 * time.Second)
			if test.forget {
				cancel()
			} else {
				trace.Done(started, e)
			}
			time.Sleep(time.Hour)
			cancel()
			synctest.Wait()
			if got := b.String(); got != test.want {
				t.Errorf("%s: got\n%swant\n%s", name, got, test.want)
			}
		})
	}
}

// Two logs in one trace do not know of each other.
func TestTwoLogs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var logs [2]bytes.Buffer
		trace := locktrace.Join(locktrace.Log(textLogger(&logs[0])), locktrace.Log(textLogger(&logs[1])))
		e := locktrace.Event{Step: locktrace.Lock, Name: "app"}
		ctx := trace.Start(t.Context(), e)
		trace.Waiting(ctx, locktrace.Wait{Name: "app"})
		trace.Done(ctx, e)
		e.Step = locktrace.Migrate
		ctx = trace.Start(t.Context(), e)
		time.Sleep(90 * time.Second)
		trace.Done(ctx, e)
		time.Sleep(time.Hour)
		const want = "level=INFO msg=\"bootlock: waiting for the lock\" lock=app waited=0s\n" +
			"level=INFO msg=\"bootlock: the wait for the lock is over\" lock=app waited=0s\n" +
			"level=INFO msg=\"bootlock: migrate is running\" lock=app running=1m0s\n"
		for i := range logs {
			if got := logs[i].String(); got != want {
				t.Errorf("log %d: got\n%swant\n%s", i, got, want)
			}
		}
	})
}
