package advisorylock

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/internal/waiting"
)

// Everything that is known about waiting is decided by one function.
func TestAfter(t *testing.T) {
	t.Parallel()
	code := func(c string) error { return recdriver.SQLError{Code: c, Message: "the server's words"} }
	starved := fmt.Errorf("%w: %w", errStarved, code("53300"))
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		wait wait
		made attempt
		want wait
		next next
	}{
		"granted":                          {made: attempt{answer: granted}, next: next{over: true}},
		"granted after a wait":             {wait: wait{lasted: true, polls: true}, made: attempt{answer: granted, waited: time.Hour}, want: wait{lasted: true, polls: true}, next: next{over: true}},
		"taken at first":                   {wait: wait{polls: true}, made: attempt{took: ms / 10}, want: wait{polls: true, lasted: true}, next: next{pause: 2 * ms}},
		"taken, the wait has lasted":       {made: attempt{waited: time.Second}, want: wait{lasted: true}, next: next{pause: 100 * ms}},
		"taken, for long":                  {made: attempt{waited: 10 * time.Second}, want: wait{lasted: true}, next: next{pause: 250 * ms}},
		"taken, for very long":             {made: attempt{waited: time.Minute}, want: wait{lasted: true}, next: next{pause: time.Second}},
		"taken, by a slow answer":          {made: attempt{took: 300 * ms, waited: 300 * ms}, want: wait{lasted: true}, next: next{pause: 600 * ms}},
		"queued for a whole burst":         {made: attempt{queued: true, took: burst, waited: time.Hour}, want: wait{lasted: true}},
		"queued, and sent away":            {made: attempt{queued: true, took: burst / 2, waited: time.Second}, want: wait{lasted: true}, next: next{pause: burst}},
		"queued, and failed":               {made: attempt{queued: true, took: burst, waited: time.Second, err: code("57014")}, want: wait{lasted: true}, next: next{leave: true, pause: 2 * burst}},
		"short of connections":             {made: attempt{answer: short, waited: 500 * ms}, want: wait{lasted: true, short: true}, next: next{leave: true, pause: 100 * ms}},
		"no longer short":                  {wait: wait{lasted: true, short: true}, made: attempt{waited: 500 * ms}, want: wait{lasted: true}, next: next{pause: 50 * ms}},
		"refused":                          {made: attempt{err: code("53300")}, want: wait{lasted: true, short: true}, next: next{leave: true, pause: 100 * ms}},
		"the server is starting":           {made: attempt{err: code("57P03")}, want: wait{lasted: true, short: true}, next: next{leave: true, pause: 100 * ms}},
		"no connection for the work":       {made: attempt{answer: granted, err: starved}, want: wait{lasted: true, short: true, starved: true, quick: quick}, next: next{leave: true, pause: 100 * ms}},
		"that stays known":                 {wait: wait{lasted: true, starved: true, short: true, quick: ms}, made: attempt{}, want: wait{lasted: true, starved: true, quick: ms}, next: next{pause: 2 * ms}},
		"granted too late":                 {made: attempt{answer: granted, err: errLate}, want: wait{lasted: true}, next: next{leave: true, pause: 2 * ms}},
		"no answer":                        {made: attempt{err: waiting.ErrSilent, waited: 30 * time.Second, took: 30 * time.Second}, want: wait{lasted: true}, next: next{leave: true, pause: 3 * time.Second}},
		"the driver did not come back":     {made: attempt{err: bounded.ErrNoReturn}, want: wait{lasted: true}, next: next{leave: true, pause: 2 * ms}},
		"the session is gone":              {made: attempt{err: driver.ErrBadConn}, want: wait{lasted: true}, next: next{leave: true, pause: 2 * ms}},
		"led to a standby":                 {made: attempt{err: errStandby}, want: wait{lasted: true}, next: next{leave: true, pause: 2 * ms}},
		"a standby at first":               {made: attempt{err: errStandby, over: true}, next: next{over: true}},
		"a timeout of the user's":          {made: attempt{err: code("57014")}, want: wait{lasted: true}, next: next{leave: true, pause: 2 * ms}},
		"a lock_timeout of the user's":     {made: attempt{err: code("55P03")}, want: wait{lasted: true}, next: next{leave: true, pause: 2 * ms}},
		"no right to plpgsql":              {made: attempt{err: code("42501")}, want: wait{plain: true, polls: true}, next: next{leave: true}},
		"no plpgsql":                       {made: attempt{err: code("42704")}, want: wait{plain: true, polls: true}, next: next{leave: true}},
		"no right to anything":             {wait: wait{plain: true, polls: true}, made: attempt{err: code("42501")}, want: wait{plain: true, polls: true}, next: next{over: true}},
		"nor the type":                     {wait: wait{plain: true, polls: true}, made: attempt{err: code("42704")}, want: wait{plain: true, polls: true}, next: next{over: true}},
		"another error":                    {made: attempt{err: code("53100")}, next: next{over: true}},
		"an error without a code":          {wait: wait{lasted: true}, made: attempt{err: errors.New("boom")}, want: wait{lasted: true}, next: next{over: true}},
		"a question's own error":           {wait: wait{polls: true}, made: attempt{err: code("42501"), over: true}, want: wait{polls: true}, next: next{over: true}},
		"a question's error that passes":   {wait: wait{polls: true}, made: attempt{err: driver.ErrBadConn}, want: wait{polls: true, lasted: true}, next: next{leave: true, pause: 2 * ms}},
		"nothing is left to do":            {wait: wait{polls: true, done: true}, made: attempt{over: true}, want: wait{polls: true, done: true}, next: next{over: true}},
		"the words of a shortage, by hand": {made: attempt{err: errors.New("too many connections")}, next: next{over: true}},
	} {
		got, next := tt.wait.after(tt.made)
		if got != tt.want || next != tt.next {
			t.Errorf("%s:\ngot  %+v, %+v\nwant %+v, %+v", name, got, next, tt.want, tt.next)
		}
	}
}

// A refusal before the first attempt is decided by the same function.
func TestRefused(t *testing.T) {
	t.Parallel()
	refused := recdriver.SQLError{Code: "53300"}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tt := range []struct {
		ctx   context.Context
		err   error
		again bool
	}{
		{context.Background(), nil, false},
		{context.Background(), driver.ErrBadConn, false},
		{context.Background(), refused, true},
		{ended, refused, false},
	} {
		ctx, r := waiting.Begin(tt.ctx, nil, locktrace.Wait{}, nil)
		var w wait
		again := w.refused(ctx, r, tt.err, r.Since())
		if wants := tt.err == refused; again != tt.again || w.lasted != wants || w.short != wants { //nolint:errorlint // itself
			t.Errorf("%v: got %t, %+v; want %t", tt.err, again, w, tt.again)
		}
		r.End()
	}
}
