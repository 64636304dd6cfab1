//go:build go1.25

package room_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/internal/room"
)

func TestShort(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("boom"), false},
		{recdriver.SQLError{Code: "53300", Message: "sorry, too many clients already"}, true},
		{fmt.Errorf("connect: %w", recdriver.SQLError{Code: "57P03", Message: "the database system is starting up"}), true},
		{recdriver.SQLError{Code: "08P01", Message: "no more connections allowed (max_client_conn)"}, true},
		{recdriver.SQLError{Code: "08P01", Message: "query_wait_timeout"}, true},
		{recdriver.SQLError{Code: "08P01", Message: "invalid message"}, false},
		{errors.New("pq: server login has been failing, try again later"), true},
		{recdriver.SQLError{Code: "23505", Message: "too many connections"}, false}, // a value of the user's
		{recdriver.SQLError{Code: "28P01", Message: "password authentication failed"}, false},
		{syscall.ECONNREFUSED, false},
	} {
		if got := room.Short(tt.err); got != tt.want {
			t.Errorf("%v: got %t; want %t", tt.err, got, tt.want)
		}
	}
}

func TestGone(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		syscall.ECONNREFUSED:              true, // the server restarts
		syscall.ECONNRESET:                true,
		errors.New("boom"):                false,
		recdriver.SQLError{Code: "57P01"}: true,
		recdriver.SQLError{Code: "42501"}: false,
	} {
		if got := room.Gone(err); got != want {
			t.Errorf("%v: got %t; want %t", err, got, want)
		}
	}
}

// Nobody waits for more than a tenth longer than needed, or a second, and those
// who ask are not much of what a pooler has to do.
func TestPace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		waited, took time.Duration
		short        bool
		want         time.Duration // at most, and at least half of it
	}{
		{"at first", 0, 0, false, 10 * time.Millisecond},
		{"a tenth", 3 * time.Second, time.Millisecond, false, 300 * time.Millisecond},
		{"a second", time.Hour, time.Millisecond, false, time.Second},
		{"where an ask takes long", time.Second, 40 * time.Millisecond, false, 800 * time.Millisecond},
		{"but not for ever", time.Second, time.Minute, false, 3 * time.Second},
		{"or a tenth", time.Minute, time.Minute, false, 6 * time.Second},
		{"where connections are short", 2 * time.Second, time.Millisecond, true, time.Second},
		{"where they take long to open", time.Second, time.Second, true, 3 * time.Second},
		{"and all waiters keep the server from answering", time.Minute, time.Second, true, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for range 100 {
					p := room.Start()
					p.Pause(t.Context(), tt.took, tt.short) // one slow ask may be an accident
					time.Sleep(tt.waited - p.Waited())
					begun := time.Now()
					if !p.Pause(t.Context(), tt.took, tt.short) {
						t.Fatal("the context ended")
					}
					if got := time.Since(begun); got > tt.want || got < tt.want/2-time.Millisecond {
						t.Errorf("paused for %v; want %v to %v", got, tt.want/2, tt.want)
					}
				}
			})
		})
	}
}

// All others wait for the one that has the lock: it does not stay away for longer
// than it takes to ask.
func TestLeadAsksOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := room.Lead()
		time.Sleep(time.Hour)
		for took, want := range map[time.Duration]time.Duration{0: 10 * time.Millisecond, 40 * time.Millisecond: 40 * time.Millisecond, time.Minute: time.Second} {
			p.Pause(t.Context(), took, false)
			begun := time.Now()
			p.Pause(t.Context(), took, false)
			if got := time.Since(begun); got > want || got < want/2-time.Millisecond {
				t.Errorf("after an ask of %v, paused for %v; want %v to %v", took, got, want/2, want)
			}
		}
	})
}

func TestPauseEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		p := room.Start()
		if p.Pause(ctx, time.Second, false) || p.Waited() != time.Millisecond {
			t.Errorf("lasted %v; want the end of the context", p.Waited())
		}
	})
}

// What a waiter does not look at it must not do for long.
func TestStand(t *testing.T) {
	t.Parallel()
	blocked := time.Duration(0)
	for waited := time.Duration(0); ; {
		burst, blindly := room.Stand(waited)
		if !blindly {
			if burst != room.Burst {
				t.Errorf("after %v a burst takes %v; want %v", waited, burst, room.Burst)
			}
			break
		}
		blocked += burst
		waited += burst
	}
	if want := 300 * time.Millisecond; blocked != want {
		t.Errorf("blocks for %v without a look; want %v", blocked, want)
	}
}
