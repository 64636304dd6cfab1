package history

import (
	"maps"
	"slices"

	"github.com/anishathalye/porcupine"
)

// status is what is known of one who was granted the lock.
type status int

const (
	holds    status = iota
	doubtful        // it may have lost its session
	told            // it knows that it has lost the lock; its session may live for a while
	gone            // it has lost its session
	released        // it has given the lock back
)

// holder is one who was granted the lock and has not been followed by another lease:
// what it commits is not too late yet.
type holder struct {
	id, process int
	lease       bool
	status      status
}

// lock is the lock that histories are compared with, one for each key. Its state are
// the holders, in the order of their grants.
func lock() porcupine.Model {
	return porcupine.Model{
		Partition: byKey,
		Init:      func() any { return []holder(nil) },
		Step: func(state, input, _ any) (bool, any) {
			return step(state.([]holder), input.(Op))
		},
		Equal: func(a, b any) bool { return slices.Equal(a.([]holder), b.([]holder)) },
	}
}

func byKey(ops []porcupine.Operation) [][]porcupine.Operation {
	of := map[int64][]porcupine.Operation{}
	for _, op := range ops {
		key := op.Input.(Op).Key
		of[key] = append(of[key], op)
	}
	return slices.Collect(maps.Values(of))
}

// step is what becomes of the holders by op, and whether op can happen to them.
func step(before []holder, op Op) (bool, []holder) {
	at := slices.IndexFunc(before, func(h holder) bool { return h.id == op.Holder && op.Kind != Ended && op.Kind != Refused })
	is := gone
	if at >= 0 {
		is = before[at].status
	}
	become := func(s status) []holder {
		if is == s || at < 0 {
			return before
		}
		after := slices.Clone(before)
		after[at].status = s
		return after
	}
	switch op.Kind {
	case Granted:
		return grant(before, op)
	case Refused:
		return op.contended || slices.ContainsFunc(before, func(h holder) bool { return h.status != released }), before
	case Lost:
		if is == gone {
			return true, before
		}
		return is != released, become(told)
	case Released:
		if op.OK { // nil says that the session has lived until then
			return is == holds || is == doubtful, become(released)
		}
		return true, become(told)
	case Fenced:
		switch {
		case op.OK: // in doubt it stays: the server may learn of a reset later than its client
			return is == holds || is == doubtful || is == told, before
		case is == doubtful:
			return true, become(gone)
		}
		return is != holds, before
	case Committed:
		return at >= 0, before
	case Ended:
		return true, ended(before, op.Process)
	}
	return false, before
}

// grant is possible if all who are in the way are out of the game. Those who were
// before a lease have to be silent from then on.
func grant(before []holder, op Op) (bool, []holder) {
	var after []holder
	for _, h := range before {
		switch {
		case h.status == holds:
			return false, before
		case op.Lease:
			continue
		case h.status == doubtful, h.status == told:
			h.status = gone
		}
		after = append(after, h)
	}
	return true, append(after, holder{op.Holder, op.Process, op.Lease, holds})
}

// ended leaves those in doubt whose sessions may have been met.
func ended(before []holder, process int) []holder {
	after := slices.Clone(before)
	for i, h := range after {
		if h.status == holds && (process == Everybody || process == h.process) {
			after[i].status = doubtful
		}
	}
	return after
}
