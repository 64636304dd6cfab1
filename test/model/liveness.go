package model

import "fmt"

// starved looks for a process that can wait for ever although no fault happens any
// more: a state in which nothing can happen, or a circle of states that is fair. In a
// fair circle everything that could happen all the time does happen.
func (g *graph[S]) starved() (wrong string, trace []string) {
	for p := range g.m.Processes {
		in := make([]bool, len(g.states))
		for n, s := range g.states {
			in[n] = g.m.Waits(s, p)
			if in[n] && g.stuck(int32(n)) { //nolint:gosec // see add
				return fmt.Sprintf("%c waits, and nothing happens any more", 'A'+p), g.way(int32(n)) //nolint:gosec // see add
			}
		}
		for _, circle := range g.circles(in) {
			if g.fair(circle) {
				return fmt.Sprintf("%c waits for ever, in a circle of %d states", 'A'+p, len(circle)), append(g.way(circle[0]), g.round(circle, circle[0])...)
			}
		}
	}
	return "", nil
}

func (g *graph[S]) stuck(n int32) bool {
	for _, e := range g.edges[n] {
		if !e.fault && e.to != n {
			return false
		}
	}
	return true
}

// fair reports whether whatever can happen in every state of a circle also happens within
// it, so that one can stay in it for ever: each step by its name, and for each process
// any of its steps.
func (g *graph[S]) fair(circle []int32) bool {
	in := make(map[int32]bool, len(circle))
	for _, n := range circle {
		in[n] = true
	}
	taken := map[int32]bool{} // what stays
	always := map[int32]int{} // in how many states it is possible
	for _, n := range circle {
		seen := map[int32]bool{}
		for _, e := range g.edges[n] {
			if e.fault || e.to == n {
				continue
			}
			for _, what := range []int32{e.label, -2 - g.by[e.label]} {
				if !seen[what] {
					seen[what] = true
					always[what]++
				}
				taken[what] = taken[what] || in[e.to]
			}
		}
	}
	for what, states := range always {
		if states == len(circle) && !taken[what] {
			return false
		}
	}
	return true
}

// round is a way from a state of a circle back to it.
func (g *graph[S]) round(circle []int32, at int32) []string {
	in := map[int32]bool{}
	for _, n := range circle {
		in[n] = true
	}
	type from struct{ n, label int32 }
	came := map[int32]from{}
	for queue := []int32{at}; len(queue) > 0; queue = queue[1:] {
		for _, e := range g.edges[queue[0]] {
			if _, seen := came[e.to]; e.fault || seen || !in[e.to] || e.to == queue[0] {
				continue
			}
			came[e.to] = from{queue[0], e.label}
			queue = append(queue, e.to)
		}
		if _, back := came[at]; back {
			break
		}
	}
	var names []string
	for n := at; ; {
		f, ok := came[n]
		if !ok {
			return nil
		}
		names = append([]string{g.names[f.label]}, names...)
		if n = f.n; n == at {
			return append([]string{"then, again and again:"}, names...)
		}
	}
}

// circles are the sets of the given states in which each can be come to from each other
// without a fault, by Tarjan's algorithm, without recursion.
func (g *graph[S]) circles(in []bool) [][]int32 {
	index := make([]int32, len(g.states)) // 0: not seen
	low := make([]int32, len(g.states))
	onStack := make([]bool, len(g.states))
	var stack []int32
	var found [][]int32
	next := int32(0)
	type frame struct {
		n int32
		e int
	}
	for root := range g.states {
		if !in[root] || index[root] != 0 {
			continue
		}
		frames := []frame{{n: int32(root)}} //nolint:gosec // see add
		for len(frames) > 0 {
			f := &frames[len(frames)-1]
			n := f.n
			if f.e == 0 && index[n] == 0 {
				next++
				index[n], low[n] = next, next
				stack, onStack[n] = append(stack, n), true
			}
			if f.e < len(g.edges[n]) {
				e := g.edges[n][f.e]
				f.e++
				switch {
				case e.fault || !in[e.to]:
				case index[e.to] == 0:
					frames = append(frames, frame{n: e.to})
				case onStack[e.to]:
					low[n] = min(low[n], index[e.to])
				}
				continue
			}
			frames = frames[:len(frames)-1]
			if len(frames) > 0 {
				up := frames[len(frames)-1].n
				low[up] = min(low[up], low[n])
			}
			if low[n] != index[n] {
				continue
			}
			var circle []int32
			for {
				top := stack[len(stack)-1]
				stack, onStack[top] = stack[:len(stack)-1], false
				circle = append(circle, top)
				if top == n {
					break
				}
			}
			if len(circle) > 1 {
				found = append(found, circle)
			}
		}
	}
	return found
}
