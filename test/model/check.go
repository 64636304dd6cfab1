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
	"time"
)

// Step is one thing that can happen in a state.
type Step[S comparable] struct {
	Name  string // what happens
	By    int    // the process; -1 for nobody
	Fault bool   // it need not happen, and in the end it does not any more
	To    S
}

func (s Step[S]) label() string {
	if s.By < 0 {
		return s.Name
	}
	return fmt.Sprintf("%c %s", 'A'+s.By, s.Name)
}

// Model is a system to be gone through.
type Model[S comparable] struct {
	Init S
	Next func(S) []Step[S]

	// Wrong says what must not be so in a state; "" if all is well.
	Wrong func(S) string

	// WrongStep does so for what happens.
	WrongStep func(from S, step Step[S]) string

	// Waits reports whether a process waits for its turn, of so many.
	Waits     func(s S, process int) bool
	Processes int
}

// Result is what a search has found.
type Result struct {
	States, Steps int
	Took          time.Duration
	Trace         []string // to what is wrong; nil if nothing is
	Wrong         string
}

func (r Result) String() string {
	s := fmt.Sprintf("%d states, %d steps, %v", r.States, r.Steps, r.Took.Round(time.Millisecond))
	if r.Wrong == "" {
		return s
	}
	return fmt.Sprintf("%s: %s, after %d steps:\n  %s", s, r.Wrong, len(r.Trace), strings.Join(r.Trace, "\n  "))
}

// graph is what a search has come to know. States are numbered as they are found.
type graph[S comparable] struct {
	m      Model[S]
	number map[S]int32
	states []S
	parent []int32
	edges  [][]edge
	labels map[string]int32
	names  []string
	steps  int
}

type edge struct {
	to, label int32
	fault     bool
}

// Search goes through all states, the shortest ways first, and ends with the first
// thing that is wrong. If nothing is, it looks for somebody who waits for ever.
func Search[S comparable](m Model[S]) Result {
	began := time.Now()
	g := &graph[S]{m: m, number: map[S]int32{}, labels: map[string]int32{}}
	wrong, trace := g.explore()
	if wrong == "" && m.Waits != nil {
		wrong, trace = g.starved()
	}
	return Result{States: len(g.states), Steps: g.steps, Took: time.Since(began), Wrong: wrong, Trace: trace}
}

func (g *graph[S]) add(s S, parent int32) int32 {
	if n, ok := g.number[s]; ok {
		return n
	}
	n := int32(len(g.states)) //nolint:gosec // memory ends before
	g.number[s] = n
	g.states, g.parent = append(g.states, s), append(g.parent, parent)
	return n
}

func (g *graph[S]) explore() (wrong string, trace []string) {
	g.add(g.m.Init, -1)
	for n := int32(0); int(n) < len(g.states); n++ {
		from := g.states[n]
		if g.m.Wrong != nil {
			if wrong := g.m.Wrong(from); wrong != "" {
				return wrong, g.way(n)
			}
		}
		var out []edge
		for _, step := range g.m.Next(from) {
			g.steps++
			if g.m.WrongStep != nil {
				if wrong := g.m.WrongStep(from, step); wrong != "" {
					return wrong, append(g.way(n), step.label())
				}
			}
			out = append(out, edge{g.add(step.To, n), g.labelled(step), step.Fault})
		}
		g.edges = append(g.edges, out)
	}
	return "", nil
}

func (g *graph[S]) labelled(step Step[S]) int32 {
	name := step.label()
	l, ok := g.labels[name]
	if !ok {
		l = int32(len(g.names)) //nolint:gosec // a few dozen
		g.labels[name], g.names = l, append(g.names, name)
	}
	return l
}

// way is how a state is come to from the first.
func (g *graph[S]) way(n int32) []string {
	var back []string
	for ; g.parent[n] >= 0; n = g.parent[n] {
		for _, e := range g.edges[g.parent[n]] {
			if e.to == n {
				back = append(back, g.names[e.label])
				break
			}
		}
	}
	slices.Reverse(back)
	return back
}
