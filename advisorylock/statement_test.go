package advisorylock

import (
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/internal/bridge"
)

// long has the longest text for everything.
var long = bridge.Call{Key: math.MinInt64, Name: strings.Repeat("long name ", 50), TTL: maxTTL}

// Statements that are sent while a lock is contended may come to the server's log many times.
func TestStatementsAreShort(t *testing.T) {
	t.Parallel()
	xact, lease := newStatements(long, false), newStatements(long, true)
	for name, tt := range map[string]struct {
		text string
		most int
	}{
		"take":             {xact.take(false), 400},
		"queue":            {xact.queue(), 1200},
		"take a lease":     {lease.take(false), 1200},
		"queue, lease":     {lease.queue(), 1000},
		"free":             {lease.free(false), 300},
		"free, counting":   {lease.free(true), 1200},
		"may queue":        {mayQueue(math.MaxInt32), 1200},
		"sessions":         {sessionsSQL(math.MinInt64, math.MinInt64), 1200},
		"heartbeat":        {lease.beat(), 100},
		"fence":            {lease.fence.CheckSQL(), 1200},
		"fence, by others": {lease.fence.RaiseSQL(), 1200},
	} {
		if n := len(tt.text); n > tt.most {
			t.Errorf("%s: got %d bytes; want %d at most:\n%s", name, n, tt.most, tt.text)
		}
	}
}

// pg_stat_statements takes texts for one statement that differ in a number only; of
// a DO block it keeps each text that is another.
func TestStatementsStayTheSame(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile(`(?s)DO \$bootlock\$.*\$bootlock\$`)
	digits := regexp.MustCompile(`-?\d+`)
	var blocks []string
	for _, c := range []bridge.Call{long, {Key: 42}} {
		for _, lease := range []bool{false, true} {
			s := newStatements(c, lease)
			first := s.take(false)
			if lease {
				s.fence = s.fence.Redraw()
			}
			if again := s.take(false); digits.ReplaceAllString(first, "0") != digits.ReplaceAllString(again, "0") {
				t.Errorf("got\n%s\nand then\n%s; want the same apart from numbers", first, again)
			}
			if first, again := s.queue(), s.queue(); first != again {
				t.Error("got another text to queue each time; want the same")
			}
			blocks = append(blocks, block.FindAllString(s.queue(), -1)...)
		}
	}
	for _, b := range blocks {
		if b != blocks[0] || len(blocks) != 4 {
			t.Fatalf("got %d DO blocks, and not all the same; want one text, whatever the key:\n%s\n%s", len(blocks), blocks[0], b)
		}
	}
	// What the user has set holds for the user's statements.
	s := newStatements(long, false)
	q := s.queue()
	saved, set := strings.Index(q, "current_setting('lock_timeout')"), strings.Index(q, "set_config('lock_timeout'")
	do, back := strings.Index(q, "DO $"), strings.LastIndex(q, "set_config('lock_timeout'")
	if saved < 0 || set < saved || do < set || back < do {
		t.Errorf("got %s; want lock_timeout saved, set and given back, in this order", q)
	}
}

// The encoding of the server or the client may have nothing but ASCII, and a text
// that cannot be converted is an error, not a grant.
func TestComment(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"app":                         "app",
		"":                            "",
		"Ümläut 日本語":                  "_ml_ut ___",
		"*/ DROP TABLE users; --":     "__ DROP TABLE users; --",
		"/* nested":                   "__ nested",
		"tab\tand\nnew line\rand\x00": "tab_and_new line_and_",
		"\xff\xfe":                    "__",
		`it's "quoted" $1 $$ ? \`:     `it's "quoted" $1 $$ ? \`,
		strings.Repeat("x", 64):       strings.Repeat("x", 30),
	} {
		if got := comment(name); got != want {
			t.Errorf("%q: got %q; want %q", name, got, want)
		}
	}
}

// A name is the user's, and stands in a statement that is sent as it is.
func FuzzComment(f *testing.F) {
	for _, s := range []string{"app", "*/", "/*", "**//", "\x00", "\n--", "*\x00/", "日本", "\xff*/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := comment(name)
		if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' || r == '*' || r == '/' }) || len(got) > 30 {
			t.Errorf("%q: got %q; want 30 printable characters of ASCII at most, without * and /", name, got)
		}
	})
}
