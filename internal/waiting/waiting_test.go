//go:build go1.25

package waiting_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/internal/waiting"
)

var errBoom = errors.New("boom")

func TestNext(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, tt := range []struct {
		name         string
		waited, took time.Duration
		short        bool
		want         time.Duration
	}{
		{"at first", 0, 0, false, 2 * ms},
		{"a tenth", 500 * ms, ms, false, 50 * ms},
		{"at most", 29 * time.Second, ms, false, 250 * ms},
		{"from half a minute on", 30 * time.Second, ms, false, time.Second},
		{"ever after", time.Hour, ms, false, time.Second},
		{"twice what a poll takes", 100 * ms, 40 * ms, false, 80 * ms},
		{"also beyond the caps", time.Minute, time.Second, false, 2 * time.Second},
		{"up to a limit", time.Second, time.Minute, false, 3 * time.Second},
		{"short, at first", 0, 0, true, 100 * ms},
		{"short, a tenth", 2 * time.Second, ms, true, 200 * ms},
		{"short, slow polls", 10 * time.Second, time.Second, true, 4 * time.Second},
		{"short, polls beyond the limit", time.Hour, 10 * time.Second, true, 40 * time.Second},
		{"short, up to half of the wait", 12 * time.Second, time.Minute, true, 6 * time.Second},
	} {
		if got := waiting.Next(tt.waited, tt.took, tt.short); got != tt.want {
			t.Errorf("%s: got %v; want %v", tt.name, got, tt.want)
		}
	}
}

func TestPause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lengths := map[time.Duration]bool{}
		for range 20 {
			began := time.Now()
			if !waiting.Pause(t.Context(), time.Second) {
				t.Fatal("the context goes on")
			}
			took := time.Since(began)
			if lengths[took] = true; took < time.Second/2 || took > time.Second {
				t.Errorf("got %v; want half a second to one", took)
			}
		}
		if len(lengths) == 1 {
			t.Error("all pauses have the same length")
		}
		for _, d := range []time.Duration{0, 1, 2, 3} {
			if !waiting.Pause(t.Context(), d) {
				t.Errorf("%v: the context goes on", d)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if began := time.Now(); waiting.Pause(ctx, time.Hour) || time.Since(began) != time.Minute {
			t.Errorf("the pause lasted %v; want it to end with its context, after a minute", time.Since(began))
		}
		if waiting.Pause(ctx, 0) {
			t.Error("the context has ended")
		}
	})
}

// What an error says of the connection, and whether a wait goes on after it.
func TestErrors(t *testing.T) {
	t.Parallel()
	state := func(code, message string) error { return recdriver.SQLError{Code: code, Message: message} }
	for _, tt := range []struct {
		err                error
		short, stale, gone bool
	}{
		{err: nil},
		{err: errBoom},
		{err: state("53300", "any words"), short: true},
		{err: fmt.Errorf("connect: %w", state("57P03", "any words")), short: true, gone: true},
		{err: state("08P01", "no more connections allowed (max_client_conn)"), short: true, gone: true},
		{err: state("08P01", "query_wait_timeout"), short: true, gone: true},
		{err: state("08P01", "server login has been failing, try again later"), short: true, gone: true},
		{err: state("58000", "the database system is starting up"), short: true},
		{err: state("XX000", "sorry, too many clients already"), short: true},
		{err: state("XX000", "remaining connection slots are reserved"), short: true},
		{err: state("XX000", "tuple concurrently updated")},
		{err: state("08P01", "invalid message"), gone: true},
		{err: state("23505", "too many connections")}, // a value of the user's own
		{err: errors.New("too many connections")},     // words of the user's own
		{err: state("28P01", "password authentication failed")},
		{err: state("26000", "prepared statement does not exist"), stale: true},
		{err: state("42P05", "prepared statement exists"), stale: true},
		{err: state("57P01", "terminating connection"), gone: true},
		{err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, gone: true}, // the server restarts
		{err: syscall.ENOENT, gone: true},                                                                     // and its socket is not there
		{err: syscall.ECONNRESET, gone: true},
	} {
		if short, stale, gone := waiting.Short(tt.err), waiting.Stale(tt.err), waiting.Gone(tt.err); short != tt.short || stale != tt.stale || gone != tt.gone {
			t.Errorf("%v: got short %t, stale %t, gone %t; want %t, %t, %t", tt.err, short, stale, gone, tt.short, tt.stale, tt.gone)
		}
		if got, want := waiting.Passes(tt.err), tt.short || tt.stale || tt.gone; got != want {
			t.Errorf("%v: passes: got %t; want %t", tt.err, got, want)
		}
	}
	if !waiting.Passes(fmt.Errorf("poll: %w", bounded.ErrNoReturn)) {
		t.Error("a poll whose driver did not come back ends the wait")
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		setUp func(d *recdriver.Driver)
		want  bool
	}{
		"enough":              {func(*recdriver.Driver) {}, false},
		"less than a quarter": {func(d *recdriver.Driver) { d.Server().SetShort(true) }, true},
		"none": {func(d *recdriver.Driver) {
			d.OnCall(recdriver.FailOn(recdriver.Connect, "", 0, recdriver.SQLError{Code: "53300"}))
		}, true},
		"not known": {func(d *recdriver.Driver) { d.OnCall(recdriver.FailOn(recdriver.Connect, "", 0, errBoom)) }, false},
		"forbidden": {func(d *recdriver.Driver) {
			d.Server().SetShort(true)
			d.OnCall(recdriver.FailOn(recdriver.Exec, "", 0, recdriver.SQLError{Code: "42501"}))
		}, false},
	} {
		d := recdriver.New()
		db := d.OpenDB()
		defer db.Close()
		tt.setUp(d)
		if got := waiting.Count(t.Context(), db); got != tt.want {
			t.Errorf("%s: got %t; want %t", name, got, tt.want)
		}
		if n := db.Stats().InUse; n != 0 {
			t.Errorf("%s: %d connections are still in use", name, n)
		}
	}
}

func TestLeave(t *testing.T) {
	t.Parallel()
	d := recdriver.New()
	db := d.OpenDB()
	defer db.Close()
	waiting.Leave(t.Context(), db)
	if got := d.String(); got != "" {
		t.Errorf("got %s; want no connection opened in order to close it", got)
	}
	var two [2]*sql.Conn
	for i := range two {
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		two[i] = conn
	}
	two[0].Close()
	waiting.Leave(t.Context(), db)
	if stats := db.Stats(); stats.Idle != 0 || stats.InUse != 1 || d.Open() != 1 {
		t.Errorf("got %d idle, %d in use, %d open; want the idle one closed", stats.Idle, stats.InUse, d.Open())
	}
	two[1].Close()
}
