package model

import (
	"os"
	"strings"
	"testing"
)

// envModel is how far the search goes: with "full", three processes meet two faults,
// which takes 20 s and 2 GB.
const envModel = "BOOTLOCK_MODEL"

// What the locks promise holds in every state of the model.
func TestPromises(t *testing.T) {
	all := []Lease{{Processes: 2, Faults: 3}, {Processes: 3, Faults: 1}}
	if os.Getenv(envModel) == "full" {
		all = append(all, Lease{Processes: 3, Faults: 2})
	}
	for _, l := range all {
		r := l.Search()
		t.Logf("%+v: %v", l, r)
		if r.Wrong != "" || r.States < 10 {
			t.Errorf("%+v: want all states in order", l)
		}
	}
}

// Every rule that is left out is missed, and the shortest way to what goes wrong is
// printed.
func TestRulesAreNeeded(t *testing.T) {
	t.Parallel()
	const twice, stale, forever = "both believe", "commits after another one was granted the lock", "waits for ever"
	for name, c := range map[string]struct {
		without Lease
		want    string
	}{
		"no lock":                     {Lease{NoLock: true}, twice},
		"a lease without a fence":     {Lease{NoFence: true}, stale},
		"the number before the gate":  {Lease{NumberFirst: true}, stale},
		"no look":                     {Lease{NoLook: true}, stale},
		"a look at the gate alone":    {Lease{GateOnly: true}, stale},
		"a look at the numbers alone": {Lease{NumberOnly: true}, stale},
		"a look at one, then another": {Lease{TwoLooks: true}, stale},
		"a late grant":                {Lease{LateGrant: true}, twice},
		"nobody gives up":             {Lease{NoDeadline: true}, twice},
		"no limit for idle sessions":  {Lease{NoIdleLimit: true}, forever},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := c.without
			l.Processes, l.Faults, l.Orderly = 2, 1, true
			r := l.Search()
			t.Log(r)
			if !strings.Contains(r.Wrong, c.want) {
				t.Errorf("got %q; want %q", r.Wrong, c.want)
			}
		})
	}
}
