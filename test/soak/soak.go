//go:build unix

// Package soak has real processes take locks on a real server, again and again, while
// processes are killed and frozen, sessions ended, networks cut and the server
// restarted, and checks that nothing is lost.
//
//   - worker.go: what the processes do
//   - faults.go: what goes wrong
//   - soak.go: what must hold
//
// The test takes seconds; `make soak` takes as long as SOAK says.
package soak

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	ttl = 1500 * time.Millisecond // of the leases

	// slack is how late a process may be to run on a busy machine.
	slack = time.Second
)

// section is one critical section. Times are in nanoseconds, by the clock of the
// machine, which all processes share.
type section struct {
	ID      int
	Process int
	Key     int64
	Lease   bool // by Hold, and not by WithXactLock

	Asked   int64
	Entered int64 // 0: the call failed before its function was called
	Told    int64 // when the context of the function ended, if it did; it stops believing then
	Left    int64 // when the function was over, or its process killed; 0 while it runs
	OK      bool  // the call returned nil
	Err     string

	Stale bool // somebody else's transaction was committed since the section began
}

// believes is until when the section's function believes that it has the lock.
func (s section) believes() int64 {
	if s.Told != 0 {
		return min(s.Told, s.Left)
	}
	return s.Left
}

// The kinds of faults.
const (
	kill      = "kill -9"
	freeze    = "freeze"
	terminate = "terminate"
	reset     = "reset"
	silent    = "silence"
	slow      = "slow network"
	full      = "no connection left"
	fast      = "fast restart"
	immediate = "immediate restart"
)

// excuses are the kinds behind which two may believe that they have one lock: a
// session that is ended, of which its holder learns by its next heartbeat or
// statement, and a holder that thaws. For all others, silence above all, the holder
// is told in time.
var excuses = []string{freeze, terminate, reset, fast, immediate}

const everybody = -1

// fault is one thing that went wrong, for a process or everybody.
type fault struct {
	kind     string
	process  int
	from, to int64
}

// overlap is two who believed that they had a lock at the same time.
type overlap struct {
	a, b  section // a came first
	lasts time.Duration
	cause string // the kind of the fault behind it
	wrong string // what must not be so; "" if all is well
}

func (o overlap) String() string {
	return fmt.Sprintf("%s: key %d, %v, cause %q\n  %+v\n  %+v", o.wrong, o.a.Key, o.lasts, o.cause, o.a, o.b)
}

// overlaps finds them all.
func overlaps(sections []section, faults []fault) (all []overlap) {
	of := map[int64][]section{}
	for _, s := range sections {
		if s.Entered != 0 && s.Left >= s.Entered {
			of[s.Key] = append(of[s.Key], s)
		}
	}
	for _, ss := range of {
		slices.SortFunc(ss, func(a, b section) int { return cmp.Compare(a.Entered, b.Entered) })
		var before []section // those that are not over yet
		for _, b := range ss {
			before = slices.DeleteFunc(before, func(a section) bool { return a.Left <= b.Entered })
			for _, a := range before {
				if o, ok := compare(a, b, faults); ok {
					all = append(all, o)
				}
			}
			before = append(before, b)
		}
	}
	return all
}

// compare reports whether a and b, which entered later, overlap.
func compare(a, b section, faults []fault) (overlap, bool) {
	o := overlap{a: a, b: b, lasts: time.Duration(min(a.believes(), b.believes()) - b.Entered)}
	if a.OK && b.OK {
		o.wrong = "both calls returned nil"
		return o, true
	}
	if o.lasts <= 0 {
		return o, false // a had been told
	}
	o.cause = cause(a, b, faults)
	switch {
	case o.cause == "":
		o.wrong = "no fault explains it"
	case a.Lease && o.cause != freeze && o.lasts > ttl+slack:
		o.wrong = "it lasts for longer than a lease"
	}
	return o, true
}

// since is when the fault may have been that s suffers from. A session may also be ended
// after its grant and before its function. Between the two the network may be silent, for
// no longer than a lease lasts if it is one; a transaction has no such limit, and learns
// it by its next statement.
func (s section) since() int64 {
	if s.Lease {
		return s.Entered - int64(ttl)
	}
	return min(s.Asked, s.Entered-int64(ttl))
}

// cause is the kind of the last fault that the overlap of a and b may come from.
func cause(a, b section, faults []fault) string {
	found, at := "", int64(0)
	for _, f := range faults {
		if f.from > b.Entered || f.from < at || !slices.Contains(excuses, f.kind) {
			continue
		}
		for _, s := range []section{a, b} {
			if (f.process == everybody || f.process == s.Process) && f.to >= s.since() {
				found, at = f.kind, f.from
			}
		}
	}
	return found
}

// tally is what a run came to.
type tally struct {
	began, stale int // sections
	wrong        []overlap

	// The transactions that wrote have left a row each, and one more in a counter.
	rows, counted int
}

func sum(sections []section, faults []fault) (t tally) {
	for _, s := range sections {
		if s.Entered != 0 {
			t.began++
		}
		if s.Stale {
			t.stale++
		}
	}
	for _, o := range overlaps(sections, faults) {
		if o.wrong != "" {
			t.wrong = append(t.wrong, o)
		}
	}
	return t
}
