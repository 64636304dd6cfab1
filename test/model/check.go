// Package model says in a small model what the lease and its fence promise, and goes
// through all states of it.
//
//   - check.go: the search: whatever holds in all states, and who waits for ever
//   - lease.go: the lock, its lease, the messages between a holder and the server, and
//     the fence, with faults
//   - replay.go: whether what was recorded is something that the model can do
//
// The model has variants that leave out one of its rules. They are there to be found
// wanting: a search that finds nothing proves nothing.
package model

import (
	"fmt"
	"slices"
	"strings"
)

// Step is one thing that can happen in a state.
type Step struct {
	Event
	Fault bool // it need not happen, and in the end it does not any more
	To    State
}

// Event is what happens in a step.
type Event struct {
	Name string
	By   int // the process; -1 for nobody
}

func (e Event) String() string {
	if e.By < 0 {
		return e.Name
	}
	return fmt.Sprintf("%c %s", 'A'+e.By, e.Name)
}

// Result is what a search has found.
type Result struct {
	States int
	Trace  []Event // to what is wrong; nil if nothing is
	Wrong  string
}

func (r Result) String() string {
	s := fmt.Sprintf("%d states", r.States)
	if r.Wrong == "" {
		return s
	}
	var trace strings.Builder
	for _, e := range r.Trace {
		fmt.Fprintf(&trace, "\n  %v", e)
	}
	return fmt.Sprintf("%s: %s, after %d steps:%s", s, r.Wrong, len(r.Trace), trace.String())
}

// graph is what a search has come to know. States are numbered as they are found.
type graph struct {
	number map[State]int32
	states []State
	parent []int32
	events []Event // by which each state was found
	edges  [][]edge
}

type edge struct {
	to    int32
	fault bool
}

// Search goes through all states, the shortest ways first, and ends with the first
// thing that is wrong. If nothing is, it looks for somebody who waits for ever.
func (l Lease) Search() Result {
	g := &graph{number: map[State]int32{}}
	wrong, trace := g.explore(l)
	if wrong == "" {
		wrong, trace = g.starved(l.Processes)
	}
	return Result{States: len(g.states), Wrong: wrong, Trace: trace}
}

func (g *graph) add(s State, parent int32, event Event) int32 {
	if n, ok := g.number[s]; ok {
		return n
	}
	n := int32(len(g.states)) //nolint:gosec // memory ends before
	g.number[s] = n
	g.states, g.parent, g.events = append(g.states, s), append(g.parent, parent), append(g.events, event)
	return n
}

func (g *graph) explore(l Lease) (wrong string, trace []Event) {
	g.add(l.init(), -1, Event{})
	for n := int32(0); int(n) < len(g.states); n++ {
		from := g.states[n]
		if wrong := l.wrong(from); wrong != "" {
			return wrong, g.way(n)
		}
		var out []edge
		for _, step := range l.next(from) {
			if wrong := wrongCommit(from, step); wrong != "" {
				return wrong, append(g.way(n), step.Event)
			}
			out = append(out, edge{g.add(step.To, n, step.Event), step.Fault})
		}
		g.edges = append(g.edges, out)
	}
	return "", nil
}

// way is how a state is come to from the first.
func (g *graph) way(n int32) []Event {
	var back []Event
	for ; g.parent[n] >= 0; n = g.parent[n] {
		back = append(back, g.events[n])
	}
	slices.Reverse(back)
	return back
}

// starved looks for a process that can wait for ever although no fault happens any
// more: a state from which no way leads to one in which it does not wait. As long as
// there is one, steps at random find it.
func (g *graph) starved(processes int) (wrong string, trace []Event) {
	before := make([][]int32, len(g.states)) // without a fault
	for n, edges := range g.edges {
		for _, e := range edges {
			if !e.fault {
				before[e.to] = append(before[e.to], int32(n)) //nolint:gosec // see add
			}
		}
	}
	for p := range processes {
		ends := make([]bool, len(g.states)) // the wait
		var queue []int32
		for n, s := range g.states {
			if ends[n] = s.p[p].pc != asks; ends[n] {
				queue = append(queue, int32(n)) //nolint:gosec // see add
			}
		}
		for ; len(queue) > 0; queue = queue[1:] {
			for _, n := range before[queue[0]] {
				if !ends[n] {
					ends[n] = true
					queue = append(queue, n)
				}
			}
		}
		if n := slices.Index(ends, false); n >= 0 {
			return fmt.Sprintf("%c waits for ever", 'A'+p), g.way(int32(n)) //nolint:gosec // see add
		}
	}
	return "", nil
}
