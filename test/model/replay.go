package model

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/bootlock/bootlock/test/history"
)

// Replay returns nil if the model has a way on which all that was recorded happens: of
// one lock that up to three processes take by Hold, alone, with one transaction at most
// each time. What the processes see happens when they say so, a session is ended when
// it was, and no process was frozen; what nobody sees may happen at any time.
func (l Lease) Replay(ops []history.Op) error {
	l.Recorded = true
	r := &replay{lease: l, ops: ops, pending: map[int]int{}}
	at := map[replayed]bool{{State: Lease{Processes: l.Processes, Faults: 1}.init()}: true}
	for n, p := range points(ops) {
		if p.begins {
			r.pend(p.op)
			continue
		}
		r.now = p.at
		at = r.returned(at, p.op)
		if len(at) == 0 {
			return fmt.Errorf("the model has no way on which, in step %d, process %d says: %v", n, ops[p.op].Process, ops[p.op])
		}
	}
	return nil
}

// point is the beginning or the end of an operation.
type point struct {
	at     time.Duration
	op     int
	begins bool
}

// points are all of them in their order. Of those at the same time beginnings come
// first: the operations may have happened in any order.
func points(ops []history.Op) []point {
	var all []point
	for i, op := range ops {
		all = append(all, point{op.Call, i, true})
	}
	for i, op := range ops {
		all = append(all, point{op.Return, i, false})
	}
	slices.SortStableFunc(all, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	return all
}

// replay is what the search for a way knows.
type replay struct {
	lease   Lease
	ops     []history.Op
	pending map[int]int // operations that have begun and not returned: their bit in replayed
	now     time.Duration
}

// replayed is a state on the way, and which of the pending operations have happened.
type replayed struct {
	State
	happened uint32
}

// pend gives op a bit that none of the pending has.
func (r *replay) pend(op int) {
	taken := slices.Collect(maps.Values(r.pending))
	for r.pending[op] = 0; slices.Contains(taken, r.pending[op]); r.pending[op]++ {
	}
}

// returned are all states that can be come to, if the operation has happened by then.
func (r *replay) returned(from map[replayed]bool, op int) map[replayed]bool {
	bit := uint32(1) << r.pending[op]
	all, queue := map[replayed]bool{}, make([]replayed, 0, len(from))
	for s := range from {
		all[s], queue = true, append(queue, s)
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		for _, step := range r.lease.next(s.State) {
			if to, ok := r.follow(s, step); ok && !all[to] {
				all[to], queue = true, append(queue, to)
			}
		}
	}
	delete(r.pending, op)
	left := map[replayed]bool{}
	for s := range all {
		if s.happened&bit != 0 || r.ops[op].Kind == history.Ended {
			s.happened &^= bit
			left[s] = true
		}
	}
	return left
}

// follow is what a step leads to, if it may be on the way.
func (r *replay) follow(s replayed, step Step) (replayed, bool) {
	to := replayed{step.To, s.happened}
	for i := range to.p {
		to.p[i].excused, to.p[i].late = false, false
	}
	if step.By < 0 {
		return to, slices.ContainsFunc(s.p[:], func(p process) bool { return p.silent })
	}
	before, after := s.p[step.By], step.To.p[step.By]
	switch step.Name {
	case isFrozen:
		return to, false
	case isEnded:
		return to, r.find(s, step.By, history.Ended, false) >= 0
	case fallSilent:
		return to, r.loses(step.By)
	case fails:
		return r.happens(to, s, step.By, history.Failed, false)
	case begins:
		return r.happens(to, s, step.By, history.Granted, false)
	case timeIsUp, heartbeat:
		return r.happens(to, s, step.By, history.Lost, false)
	case leaves: // with nil only if the session lives
		if lives := before.lock && !before.ending && !before.told; lives {
			if to, ok := r.happens(to, s, step.By, history.Released, true); ok {
				return to, true
			}
		}
		return r.happens(to, s, step.By, history.Released, false)
	case looks:
		if to, ok := r.happens(to, s, step.By, history.Fenced, after.tx == open); ok {
			return to, true
		}
		return to, after.tx == refused // nobody was told
	case commits:
		return r.happens(to, s, step.By, history.Committed, true)
	}
	return to, true
}

// happens marks an operation as one that has happened.
func (r *replay) happens(to, from replayed, process int, kind history.Kind, ok bool) (replayed, bool) {
	op := r.find(from, process, kind, ok)
	if op < 0 {
		return to, false
	}
	to.happened |= 1 << r.pending[op]
	return to, true
}

// find is a pending operation that has not happened, or -1.
func (r *replay) find(s replayed, process int, kind history.Kind, ok bool) int {
	for op, bit := range r.pending {
		o := r.ops[op]
		counts := kind == history.Released || kind == history.Fenced
		if o.Kind == kind && (o.Process == process || o.Process == history.Everybody) && (!counts || o.OK == ok) && s.happened&(1<<bit) == 0 {
			return op
		}
	}
	return -1
}

// loses reports whether the process is about to be told that it has lost the lock. For
// any other its network need not be silent.
func (r *replay) loses(process int) bool {
	for op := range r.pending {
		if r.ops[op].Process == process && r.ops[op].Kind == history.Lost {
			return true
		}
	}
	return false
}
