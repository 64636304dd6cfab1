package advisorylock

import (
	"slices"
	"testing"
)

// Whoever waits is told of the session that keeps the lock from it, not of
// another that waits as well.
func TestHolders(t *testing.T) {
	t.Parallel()
	const asking = "SET LOCAL statement_timeout = 0; " + doBlock + " DECLARE x; BEGIN END $bootlock$"
	at := func(pid int, granted bool) Session {
		return Session{PID: pid, Granted: granted, State: "idle in transaction"}
	}
	asks := func(pid int) Session { return Session{PID: pid, Granted: true, State: "active", Query: asking} }
	for name, tc := range map[string]struct {
		atKey, atGates []Session
		want           []int
	}{
		"nobody":                             {},
		"a holder":                           {atKey: []Session{at(1, true), at(2, false)}, want: []int{1}},
		"a holder with a fenced transaction": {atKey: []Session{at(1, true)}, atGates: []Session{at(3, true)}, want: []int{1}},
		"a fenced transaction, nobody has the lock": {atKey: []Session{at(2, false)}, atGates: []Session{at(3, true)}, want: []int{3}},
		"one that waits at the gate":                {atKey: []Session{at(1, true)}, atGates: []Session{at(3, true), at(1, false)}, want: []int{3}},
		"one that has yet to come to the gate":      {atKey: []Session{asks(1)}, atGates: []Session{at(3, true)}, want: []int{3}},
		"one that asks, and nobody fenced":          {atKey: []Session{asks(1)}, want: []int{1}},
		"one that passes the gate":                  {atKey: []Session{asks(1)}, atGates: []Session{at(1, true)}, want: []int{1}},
		"one that waits at the gate as it opens":    {atKey: []Session{at(1, true)}, atGates: []Session{at(1, false)}, want: []int{1}},
		"sharers, one of them at the gate":          {atKey: []Session{at(1, true), at(2, true)}, atGates: []Session{at(3, true), at(1, false)}, want: []int{2}},
	} {
		var got []int
		for _, s := range holders(tc.atKey, tc.atGates) {
			got = append(got, s.PID)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v; want %v", name, got, tc.want)
		}
	}
}
