package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/doctor"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/server"
)

// A password is hidden where the driver's errors are shown, and nowhere else: with the
// password "lock" the advice was "bootxxxxx end --xxxxx a".
func TestPasswordInMessages(t *testing.T) {
	config, err := dsn.Parse("postgres://user:lock@host/db")
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"text", "json"} {
		var b bytes.Buffer
		a := &app{log: &logger{w: &b, format: format, config: config}}
		p := &progress{log: a.log, end: "bootlock end --lock a"}
		p.server("host", errors.New("lock is wrong, dial postgres://user:hunter2@host/db"))
		a.exit("", a.failure(t.Context(), fmt.Errorf("%w: password=lock", server.ErrSilent)))
		if strings.Contains(b.String(), "hunter2") || strings.Contains(b.String(), "lock is") || strings.Contains(b.String(), "=lock") {
			t.Errorf("%s: got %s; want the messages without the password", format, b.String())
		}
		b.Reset()
		late := &progress{log: a.log, end: p.end}
		a.exit("", late.late(time.Second, exitNotInTime))
		a.log.say(howToEnd([]advisorylock.Session{{PID: 1}}, p.end), "waiting for the lock")
		if strings.Contains(b.String(), dsn.Hidden) {
			t.Errorf("%s: got %s; want nothing hidden", format, b.String())
		}
	}
}

// A stderr that nobody reads is no reason to stop: what is not written is left out.
func TestStuckStderr(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		p := &patient{w, make(chan struct{}, 1)}
		l := &logger{w: p, format: "text"}
		began := time.Now()
		l.say("first", "")
		l.say("second", "")
		if took := time.Since(began); took > 2*messageTime {
			t.Errorf("got two messages after %v; want %v each at most", took, messageTime)
		}
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil || line != "bootlock: first\n" {
			t.Errorf("got %q, %v; want the first, which was begun", line, err)
		}
		_ = r.Close()
		l.say("third", "") // to nobody
	})
}

// Two commands that name the same locks in another order never wait for each other.
func TestLocksAreSorted(t *testing.T) {
	for _, names := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b", "a", "b", "c"}} {
		r := &runner{turn: turn{ttl: 30 * time.Second}, names: names, keys: []int64{1, -1, 1}}
		if err := r.check(); err != nil {
			t.Fatal(err)
		}
		byKey := func(a, b namedLock) int { return cmp.Compare(a.key, b.key) }
		if len(r.locks) != 5 || !slices.IsSortedFunc(r.locks, byKey) {
			t.Errorf("%v: got %v; want each once, in the order of the keys", names, r.locks)
		}
	}
}

// What the server says has names in it that others gave.
func TestMessagesSteerNoTerminal(t *testing.T) {
	const hostile = "role \x1b]0;title\a\x1b[2J\r\u202e\u009b1m"
	var b bytes.Buffer
	l := &logger{w: &b, format: "text"}
	l.say(hostile, "")
	l.fail(hostile, "\n  held by "+hostile)
	report := &doctor.Report{Findings: []doctor.Finding{{Name: "create schemas", Level: doctor.OK, Text: hostile}}}
	if err := showReport(&b, report, false); err != nil {
		t.Fatal(err)
	}
	if i := strings.IndexFunc(b.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 || strings.Count(b.String(), "role") != 4 {
		t.Errorf("got %q; want nothing that steers a terminal", b.String())
	}
}
