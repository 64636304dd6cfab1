package model

import (
	"fmt"
	"slices"
)

// starved looks for a process that can wait for ever although no fault happens any
// more: a state from which no way leads to one in which it does not wait. As long as
// there is one, steps at random find it.
func (g *graph[S]) starved() (wrong string, trace []string) {
	before := make([][]int32, len(g.states)) // without a fault
	for n, edges := range g.edges {
		for _, e := range edges {
			if !e.fault {
				before[e.to] = append(before[e.to], int32(n)) //nolint:gosec // see add
			}
		}
	}
	for p := range g.m.Processes {
		ends := make([]bool, len(g.states)) // the wait
		var queue []int32
		for n, s := range g.states {
			if ends[n] = !g.m.Waits(s, p); ends[n] {
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
