package model

import (
	"os"
	"strings"
	"testing"
)

// envModel is how far the search goes: with "full", three processes meet two faults,
// which takes 20 s and 2 GB.
const envModel = "BOOTLOCK_MODEL"

// What the locks promise holds in every state of the models.
func TestPromises(t *testing.T) {
	lease := []Lease{{Processes: 2, Faults: 3}, {Processes: 3, Faults: 1}}
	if os.Getenv(envModel) == "full" {
		lease = append(lease, Lease{Processes: 3, Faults: 2})
	}
	for _, l := range lease {
		holds(t, "lease and fence", l, Search(l.Model()))
	}
	for _, r := range []Room{{Standers: 3}, {Standers: 1}, {Standers: 3, Connections: 2}, {Standers: 3, Connections: 3}} {
		r.Processes = 3
		holds(t, "room", r, Search(r.Model()))
	}
	h := Sharers{Processes: 3}
	holds(t, "sharers", h, Search(h.Model()))
}

func holds(t *testing.T, name string, config any, r Result) {
	t.Helper()
	t.Logf("%s %+v: %v", name, config, r)
	if r.Wrong != "" || r.States < 10 {
		t.Errorf("%s: want all states in order", name)
	}
}

// Every rule that is left out is missed, and the shortest way to what goes wrong is
// printed.
func TestRulesAreNeeded(t *testing.T) {
	t.Parallel()
	lease := func(l Lease) func() Result {
		l.Processes, l.Faults, l.Orderly = 2, 1, true
		return func() Result { return Search(l.Model()) }
	}
	room := func(r Room) func() Result {
		r.Processes, r.Standers = 3, 3
		return func() Result { return Search(r.Model()) }
	}
	const twice, stale, forever = "both believe", "commits after another one was granted the lock", "waits"
	for name, c := range map[string]struct {
		search func() Result
		want   string
	}{
		"no lock":                             {lease(Lease{NoLock: true}), twice},
		"a lease without a fence":             {lease(Lease{NoFence: true}), stale},
		"the number before the gate":          {lease(Lease{NumberFirst: true}), stale},
		"the gate without the number":         {lease(Lease{GateOnly: true}), stale},
		"a late grant":                        {lease(Lease{LateGrant: true}), twice},
		"nobody gives up":                     {lease(Lease{NoDeadline: true}), twice},
		"no limit for idle sessions":          {lease(Lease{NoIdleLimit: true}), forever},
		"bursts without end, two connections": {room(Room{NoBursts: true, Connections: 2}), forever},
		"bursts without end, three":           {room(Room{NoBursts: true, Connections: 3}), forever},
		"sharers that block":                  {func() Result { return Search(Sharers{Processes: 3, Queue: true}.Model()) }, forever},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := c.search()
			t.Log(r)
			if !strings.Contains(r.Wrong, c.want) {
				t.Errorf("got %q; want %q", r.Wrong, c.want)
			}
		})
	}
}
