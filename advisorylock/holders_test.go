package advisorylock

import (
	"slices"
	"testing"
)

// A waiter is told of the session that keeps the lock from it, not of another that
// waits as well.
func TestHolders(t *testing.T) {
	t.Parallel()
	s := newStatements(long, true)
	at := func(pid int, granted bool) Session {
		return Session{PID: pid, Granted: granted, State: "idle in transaction", Query: s.take(false)}
	}
	tries := func(pid int, query string) Session {
		return Session{PID: pid, Granted: true, State: "active", Query: query[:1023]} // as much as pg_stat_activity shows
	}
	for name, tc := range map[string]struct {
		atKey, atGate []Session
		want          []int
	}{
		"nobody":                             {},
		"a holder":                           {atKey: []Session{at(1, true), at(2, false)}, want: []int{1}},
		"a holder with a fenced transaction": {atKey: []Session{{PID: 1, Granted: true, State: "idle in transaction", Query: s.beat()}}, atGate: []Session{at(3, true)}, want: []int{1}},
		"a fenced transaction, nobody has the lock":               {atKey: []Session{at(2, false)}, atGate: []Session{at(3, true)}, want: []int{3}},
		"one that tries, and a fenced transaction":                {atKey: []Session{tries(1, s.take(false))}, atGate: []Session{at(3, true)}, want: []int{3}},
		"one that waits for a fenced transaction":                 {atKey: []Session{at(1, true)}, atGate: []Session{at(3, true)}, want: []int{3}},
		"one that polls, in shared mode for a moment":             {atKey: []Session{at(1, true), tries(2, s.free(true))}, want: []int{1}},
		"one that tries, and nobody has anything else":            {atKey: []Session{tries(1, s.take(false))}},
		"one whose try is over, as pg_stat_activity already says": {atKey: []Session{{PID: 1, Granted: true, State: "idle", Query: s.free(false)}}},
		"one whose try is rolled back, and a fenced transaction":  {atKey: []Session{{PID: 1, Granted: true, State: "idle", Query: "rollback"}}, atGate: []Session{at(3, true)}, want: []int{3}},
		"a session-level lock of another program":                 {atKey: []Session{{PID: 1, Granted: true, State: "idle", Query: "SELECT 1"}}, want: []int{1}},
	} {
		var got []int
		found := map[role][]Session{gated: tc.atGate}
		for _, s := range tc.atKey {
			as := roleOf(&s)
			found[as] = append(found[as], s)
		}
		for _, s := range holders(found) {
			got = append(got, s.PID)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v; want %v", name, got, tc.want)
		}
	}
}
