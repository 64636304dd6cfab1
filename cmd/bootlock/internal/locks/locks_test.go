package locks

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

func lockOf(key advisorylock.Key, sessions ...Session) *Lock {
	return &Lock{Key: &key, Sessions: sessions}
}

func holder(pid int, query string) Session {
	return Session{Session: advisorylock.Session{PID: pid, Query: query, Granted: true, Since: time.Now()}}
}

func waiterOf(pid int, query string) Session {
	s := holder(pid, query)
	s.Granted = false
	return s
}

// A lease has two locks: the one that it is for, and a number of its own.
func TestIdentify(t *testing.T) {
	app := schemaguard.KeyFor("app")
	nightly := advisorylock.KeyOf("nightly")
	for name, test := range map[string]struct {
		locks []*Lock
		known meanings
		want  []meaning
	}{
		"by its holder's name": {[]*Lock{lockOf(nightly, holder(1, "SELECT /* bootlock: nightly */ 1"))}, nil, []meaning{{Named, "nightly"}}},
		"the number of a lease": {
			[]*Lock{lockOf(advisorylock.Key(uint64(leaseOn(nightly).Family())<<32|99), holder(1, "SELECT /* bootlock: nightly */ 1")), lockOf(nightly, holder(1, "SELECT /* bootlock: nightly */ 1"))},
			nil,
			[]meaning{{number, ""}, {Named, "nightly"}},
		},
		"another lock of its session": {
			[]*Lock{lockOf(99, holder(1, "SELECT /* bootlock: nightly */ 1")), lockOf(nightly, holder(1, "SELECT /* bootlock: nightly */ 1"))},
			nil,
			[]meaning{{Unknown, ""}, {Named, "nightly"}},
		},
		"by its waiter's name":         {[]*Lock{lockOf(nightly, holder(1, ""), waiterOf(2, "SELECT /* bootlock: nightly */ pg_catalog.pg_advisory_xact_lock(1)"))}, nil, []meaning{{Named, "nightly"}}},
		"a name that is not the key's": {[]*Lock{lockOf(7, holder(1, "SELECT /* bootlock: billing */ 1"))}, nil, []meaning{{Named, "billing"}}},
		"migrations, by the schema that their lease names": {
			[]*Lock{lockOf(schemaguard.MigrateKey(app), holder(1, "SELECT /* bootlock: app */ 1"))}, nil, []meaning{{Migrate, "app"}},
		},
		"a schema that is being made": {[]*Lock{lockOf(app, holder(1, `CREATE SCHEMA IF NOT EXISTS "app"`))}, nil, []meaning{{Schema, "app"}}},
		"by --lock":                   {[]*Lock{lockOf(nightly, holder(1, "SELECT pg_advisory_lock(1)"))}, Query{Names: []string{"nightly"}}.wanted(), []meaning{{Named, "nightly"}}},
		"somebody else's":             {[]*Lock{lockOf(5, holder(1, "SELECT pg_advisory_lock(5)"))}, nil, []meaning{{Unknown, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			known := test.known
			if known == nil {
				known = meanings{}
			}
			identify(test.locks, known)
			for i, want := range test.want {
				if got := (meaning{test.locks[i].Kind, test.locks[i].Name}); got != want {
					t.Errorf("got %+v; want %+v", got, want)
				}
			}
		})
	}
}

// 24 lines of 80 columns must do, whatever there is to show.
func TestFit(t *testing.T) {
	text := strings.Repeat(strings.Repeat("wide", 30)+"\n", 40)
	for _, size := range []struct{ width, height int }{{80, 24}, {40, 8}} {
		shown := strings.NewReplacer("\x1b[H", "", "\x1b[K", "", "\x1b[J", "").Replace(Fit(text, size.width, size.height))
		lines := strings.Split(shown, "\r\n")
		if len(lines) > size.height {
			t.Errorf("got %d lines; want %d at most", len(lines), size.height)
		}
		for _, line := range lines {
			if n := len([]rune(line)); n > size.width {
				t.Errorf("got %d columns; want %d at most: %q", n, size.width, line)
			}
		}
	}
}

// Roles, databases and statements are named by others.
func TestNothingSteersTheTerminal(t *testing.T) {
	const hostile = "\x1b]0;title\a\x1b[2J\r\u202e\u009b1mx\n"
	s := holder(1, hostile)
	s.Application, s.User, s.Client, s.State, s.Terminate = hostile, hostile, hostile, hostile, s.TerminateSQL()
	l := lockOf(1, s)
	l.Kind, l.Name, l.Database = Named, hostile, hostile
	var b strings.Builder
	l.Write(&b, true)
	for _, r := range b.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("got %q in %q", r, b.String())
		}
	}
	if n := strings.Count(b.String(), "\n"); n != 4 {
		t.Errorf("got %d lines; want 4: the lock, who has it, the statement, how to end it", n)
	}
}
