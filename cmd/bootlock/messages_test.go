package main

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/doctor"
)

// What cannot work is refused before anything is asked of a server.
func TestFlagsRefused(t *testing.T) {
	for _, command := range [][]string{{"run", "--lock", "a"}, {"ensure", "--schema", "a", "--serialize"}} {
		for _, flags := range [][]string{
			{"--ttl", "999ms"},
			{"--ttl", "600h"},
			{"-E", "256"},
			{"-E", "-1"},
			{"--timeout", "-1s"},
			{"--grace", "-2s"},
			{"--kill-after", "-1s"},
		} {
			args := append(append(command, "--dsn", "postgres://127.0.0.1:1/a"), append(flags, "--", "true")...)
			var out, errOut bytes.Buffer
			code := run(args, strings.NewReader(""), &out, &errOut)
			if code != exitUsage || !strings.Contains(errOut.String(), strings.TrimLeft(flags[0], "-")) {
				t.Errorf("%v: got exit code %d and %q; want %d and what is wrong", args, code, errOut.String(), exitUsage)
			}
		}
	}
}

// The second line: no message is meant to have the password in it.
func TestNoSecretInMessages(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var b bytes.Buffer
		l := &logger{w: &b, secret: "hunter2"}
		if err := l.configure(false, format); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"hunter2 is wrong", "dial postgres://user:hunter2@host/db", "password=hunter2"} {
			l.say(text, text)
			l.fail(text, "\n  see hunter2")
		}
		if strings.Contains(b.String(), "hunter2") || !strings.Contains(b.String(), "is wrong") {
			t.Errorf("%s: got %s; want the messages without the password", format, b.String())
		}
	}
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
	l := &logger{w: &b}
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
