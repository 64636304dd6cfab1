package advisorylock_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/bootlock/bootlock/advisorylock"
)

func TestComment(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"app":                         "app",
		"":                            "",
		"Ümläut 日本語":                  "Ümläut 日本語",
		"*/ DROP TABLE users; --":     "__ DROP TABLE users; --",
		"/* nested":                   "__ nested",
		"*":                           "_",
		"tab\tand\nnew line\rand\x00": "tab_and_new line_and_",
		"\u2028line\u00a0space":       "_line_space",
		"\xff\xfe":                    "\ufffd\ufffd",
		`it's "quoted" $1 $$ ? \`:     `it's "quoted" $1 $$ ? \`,
	} {
		if got := advisorylock.Comment(name); got != want {
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
		got := advisorylock.Comment(name)
		if strings.ContainsAny(got, "*/") {
			t.Errorf("%q: got %q, which can end the comment or begin another", name, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q: got %q, with something unprintable at %d", name, got, i)
		}
		if len([]rune(got)) != len([]rune(name)) {
			t.Errorf("%q: got %q; want one character for each", name, got)
		}
	})
}
