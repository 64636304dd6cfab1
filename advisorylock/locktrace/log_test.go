package locktrace_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// textLogger writes lines without the time.
func textLogger(b *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// step runs hooks as a call does in a step: waits are those that it has to tell
// of before it ends.
func step(t *locktrace.Trace, e locktrace.Event, err error, waits ...locktrace.Wait) {
	ctx := t.Start(context.Background(), e)
	for _, w := range waits {
		t.Waiting(ctx, w)
	}
	if len(waits) > 0 {
		e.Duration = waits[len(waits)-1].Waited + time.Second
	}
	e.Err = err
	t.Done(ctx, e)
}

func TestLog(t *testing.T) {
	t.Parallel()
	holder := locktrace.Session{PID: 7, Application: "deploy", Since: time.Date(2025, 3, 9, 12, 0, 0, 0, time.UTC), Query: "SELECT 'secret'"}
	boom := errors.New("boom")
	lock := locktrace.Event{Step: locktrace.Lock, Key: 42, Name: "app", For: locktrace.Migrate}
	wait := func(d time.Duration, holders ...locktrace.Session) locktrace.Wait {
		return locktrace.Wait{Key: 42, Name: "app", For: locktrace.Migrate, Waited: d, Holders: holders}
	}
	for name, test := range map[string]struct {
		event locktrace.Event
		err   error
		waits []locktrace.Wait
		want  string
	}{
		"no wait":             {event: lock},
		"failure, no wait":    {event: lock, err: boom},
		"failure elsewhere":   {event: locktrace.Event{Step: locktrace.CreateSchema}, err: boom},
		"a long step is none": {event: locktrace.Event{Step: locktrace.Migrate, Duration: time.Hour}},
		"short wait": {event: lock, waits: []locktrace.Wait{wait(time.Second, holder)}, want: `
level=INFO msg="bootlock: waiting for the lock" lock=app waited=1s for=migrate held_by="pid 7 (deploy, since 2025-03-09T12:00:00Z)"
level=INFO msg="bootlock: the wait for the lock is over" lock=app waited=2s for=migrate
`},
		"long wait, in vain": {event: lock, err: boom, waits: []locktrace.Wait{wait(1001001 * time.Microsecond), wait(11 * time.Second), wait(21 * time.Second)}, want: `
level=INFO msg="bootlock: waiting for the lock" lock=app waited=1.001s for=migrate
level=WARN msg="bootlock: still waiting for the lock" lock=app waited=11s for=migrate
level=WARN msg="bootlock: still waiting for the lock" lock=app waited=21s for=migrate
level=WARN msg="bootlock: the wait ended without the lock" lock=app waited=22s for=migrate error=boom
`},
		"no connection": {event: lock, waits: []locktrace.Wait{{Key: 42, Name: "app", Waited: time.Second, Err: boom}}, want: `
level=INFO msg="bootlock: waiting for the lock" lock=app waited=1s error=boom
level=INFO msg="bootlock: the wait for the lock is over" lock=app waited=2s for=migrate
`},
		"inside the process, without a name": {
			event: locktrace.Event{Step: locktrace.Connect, Key: -5},
			waits: []locktrace.Wait{{Key: -5, Waited: time.Second, Holders: make([]locktrace.Session, 8)}}, want: `
level=INFO msg="bootlock: waiting for the lock" lock=-5 waited=1s held_by="pid 0; pid 0; pid 0; and 5 more"
level=INFO msg="bootlock: the wait for the lock is over" lock=-5 waited=2s
`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			step(locktrace.Log(textLogger(&b)), test.event, test.err, test.waits...)
			if got, want := b.String(), strings.TrimPrefix(test.want, "\n"); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// A wait that is over leaves nothing behind for the steps after it, nor for
// another call's.
func TestLogKeepsCallsApart(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	trace := locktrace.Log(textLogger(&b))
	lock := locktrace.Event{Step: locktrace.Lock, Name: "app"}
	waiting := trace.Start(context.Background(), lock)
	trace.Waiting(waiting, locktrace.Wait{Name: "app", Waited: time.Second})
	step(trace, lock, nil) // another call, which does not wait
	// A step inside a step, as when migrate takes a lock of its own.
	step(trace, locktrace.Event{Step: locktrace.Connect}, nil)
	trace.Done(waiting, lock)
	if got := strings.Count(b.String(), "\n"); got != 2 {
		t.Errorf("got %d lines; want 2:\n%s", got, &b)
	}
}

func TestLogDefault(t *testing.T) { // not parallel: the default logger is everybody's
	trace := locktrace.Log(nil)
	var b bytes.Buffer
	before := slog.Default()
	slog.SetDefault(textLogger(&b))
	defer slog.SetDefault(before)
	trace.Waiting(context.Background(), locktrace.Wait{Name: "app", Waited: time.Second})
	if got, want := b.String(), "level=INFO msg=\"bootlock: waiting for the lock\" lock=app waited=1s\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}
