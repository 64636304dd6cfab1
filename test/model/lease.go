package model

import (
	"fmt"
	"slices"
)

// The server ends a session that has been idle in its transaction for so many ticks;
// the holder gives up earlier.
const (
	serverTicks = 2
	holderTicks = 1
)

// Lease is the model of the lock with its lease and its fence.
//
// A process asks for the lock in a session of its own, waits in the server's queue, and
// runs its function when the answer has come, unless that is older than a lease is sure.
// While it does, every tick brings a heartbeat, by which it learns that its session is
// gone; if none gets through, it gives up when the last one is too old. It leaves when it
// likes. Once, at any time after its beginning, it writes: a fenced transaction shares
// the gate, looks whether the number of its lease is taken, and is committed some time
// later, by a process that looks at nothing else. The server takes the locks from a
// session that ends one by one, in any order. The next holder takes the lock and a number,
// and looks once at all locks: if another number is taken, or the gate shared, it gives
// back what it has and tries again; else it is granted the lock.
//
// Ticks are the same for all clocks; a tick does not come before an answer that gets
// through, nor before what is due. Faults, of which there are a few at any time: a process
// is frozen, a network falls silent, a session is ended. Processes thaw and networks heal
// in the end.
type Lease struct {
	Processes, Faults int

	// Recorded is for [Lease.Replay]: turns and faults have no end, calls may fail, and
	// so may connections.
	Recorded bool

	// Orderly functions do not return before their transaction has ended.
	Orderly bool

	// Each of these leaves a rule out, or turns it round.
	NoLock      bool // whoever asks is granted the lock
	NoFence     bool // transactions are committed without a look
	NumberFirst bool // a transaction looks at its number before it shares the gate
	NoLook      bool // the next holder looks at no locks
	GateOnly    bool // it does not look at old numbers
	NumberOnly  bool // it does not look at the gate
	TwoLooks    bool // it looks at the gate, and then at old numbers
	LateGrant   bool // a grant counts from its answer, however old that is
	NoDeadline  bool // nobody gives up for want of a heartbeat
	NoIdleLimit bool // the server does not end idle sessions
}

type pc uint8

const (
	done   pc = iota // it has had its turn, or not asked yet
	asks             // for the lock
	inside           // its function
)

type tx uint8

const (
	noTx    tx = iota
	looked     // its number is taken, or it does not care; it is not in the gate
	inGate     // shares the gate
	open       // in the gate, with its number taken: it may be committed
	refused    // its number was free
	written    // committed
	dead       // ended by the server
)

const most = 3 // processes

// process is what there is of one process, on its own side and on the server's.
type process struct {
	pc     pc
	turns  uint8 // that it will still take
	told   bool  // the context of its function has ended
	frozen bool
	silent bool  // its network
	good   uint8 // ticks since the last heartbeat, or grant

	queue        uint8 // its place; 0 outside
	lock, number bool
	sawGate      bool  // shared by nobody
	granted      bool  // the lock, by the server: the answer is under way, or has come
	ending       bool  // its session
	idle         uint8 // ticks since the last answer

	excused bool // its session was ended, or it was frozen, since it asked
	late    bool // somebody else was granted the lock after it
	begun   bool // its function has run since it asked
	tx      tx
	txIdle  uint8
}

// State is one state of [Lease].
type State struct {
	p      [most]process
	faults uint8
}

func (l Lease) init() State {
	s := State{faults: uint8(l.Faults)} //nolint:gosec // a few
	for i := range l.Processes {
		s.p[i].turns = 1
	}
	return s
}

// wrong is two who believe that they have the lock, without an excuse: a process that
// is frozen, or whose session somebody else has ended, cannot be told in time.
func (l Lease) wrong(s State) string {
	for i := range l.Processes {
		for j := range i {
			a, b := s.p[i], s.p[j]
			if a.believes() && b.believes() && !a.excused && !b.excused {
				return fmt.Sprintf("%c and %c both believe that they have the lock", 'A'+j, 'A'+i)
			}
		}
	}
	return ""
}

func (p process) believes() bool { return p.pc == inside && !p.told }

func wrongCommit(from State, step Step) string {
	if step.Name == commits && from.p[step.By].late {
		return fmt.Sprintf("%c commits after another one was granted the lock", 'A'+step.By)
	}
	return ""
}

// What can happen; each has a name.
const (
	asksFor    = "asks for the lock"
	begins     = "begins"
	tooLate    = "hears too late that it has the lock"
	timeIsUp   = "gives up, for want of a heartbeat"
	heartbeat  = "learns from its heartbeat that the lock is lost"
	leaves     = "leaves"
	looks      = "looks at its number"
	commits    = "commits"
	isFrozen   = "is frozen"
	fallSilent = "can't be reached any more"
	isEnded    = "loses its session"
	fails      = "fails"
	tick       = "a tick"
)

type change = func(s *State, p *process)

// steps collects what can happen in a state.
type steps struct {
	from   State
	all    []Step
	urgent bool // something comes before the next tick

	endless bool // faults do not count
}

// add reports whether the change is one.
func (st *steps) add(name string, by int, change change) bool {
	to := st.from
	change(&to, &to.p[max(by, 0)])
	if to == st.from {
		return false
	}
	st.all = append(st.all, Step{Event: Event{name, by}, To: to})
	return true
}

func (st *steps) now(name string, by int, change change) {
	st.urgent = st.add(name, by, change) || st.urgent
}

func (st *steps) fault(name string, by int, change func(p *process)) {
	if st.add(name, by, func(s *State, p *process) {
		if !st.endless {
			s.faults--
		}
		change(p)
	}) {
		st.all[len(st.all)-1].Fault = true
	}
}

// next returns what can happen in a state.
func (l Lease) next(s State) []Step {
	st := &steps{from: s, endless: l.Recorded}
	for i := range l.Processes {
		if !s.p[i].frozen {
			l.client(st, i)
			l.writer(st, i)
		}
		l.server(st, i)
		if s.faults > 0 {
			l.faults(st, i)
		}
		if s.p[i].frozen {
			st.add("thaws", i, func(_ *State, p *process) { p.frozen = false })
		}
		if s.p[i].silent {
			st.add("can be reached again", i, func(_ *State, p *process) { p.silent = false })
		}
	}
	if !st.urgent {
		st.add(tick, -1, l.tick)
	}
	return st.all
}

func (l Lease) faults(st *steps, i int) {
	p := st.from.p[i]
	if p.pc != done && !p.frozen {
		st.fault(isFrozen, i, func(p *process) { p.frozen, p.excused = true, true })
	}
	if p.pc != done && !p.silent {
		st.fault(fallSilent, i, func(p *process) { p.silent = true })
	}
	if p.hasSession() && !p.ending {
		st.fault(isEnded, i, func(p *process) { p.ending, p.excused = true, true })
	}
	if !l.Recorded {
		return
	}
	if p.pc == asks {
		st.fault(fails, i, func(p *process) { p.pc, p.ending = done, p.hasSession() })
	}
	if p.pc != asks && (p.told || p.pc == done) && p.hasSession() && !p.ending {
		st.fault("closes its connection", i, func(p *process) { p.ending = true })
	}
	if p.writes() {
		st.fault("'s transaction ends", i, func(p *process) { p.tx = dead })
	}
}

// hasSession reports whether the server has a session of p. One that has neither a place
// in the queue nor a lock does not count.
func (p process) hasSession() bool { return p.queue > 0 || p.lock || p.number }

// client is what a process does that is not frozen.
func (l Lease) client(st *steps, i int) {
	p := st.from.p[i]
	switch {
	case p.pc == done && p.turns > 0 && !p.hasSession() && !p.silent && !p.writes():
		st.add(asksFor, i, func(s *State, p *process) {
			left := p.turns - 1
			if l.Recorded {
				left = p.turns
			}
			*p = process{pc: asks, turns: left, queue: s.tail()}
		})
	case p.pc == asks && !p.hasSession() && !p.silent: // it has gone while it waited
		st.now(asksFor, i, func(s *State, p *process) {
			*p = process{pc: asks, turns: p.turns, queue: s.tail(), excused: p.excused}
		})
	case p.pc == asks && p.granted && !p.silent && p.idle >= holderTicks && !l.LateGrant:
		st.now(tooLate, i, func(_ *State, p *process) { p.granted, p.ending = false, true })
	case p.pc == asks && p.granted && !p.silent:
		st.now(begins, i, func(_ *State, p *process) { p.pc, p.good, p.begun = inside, 0, true })
	}
	if p.pc != inside {
		return
	}
	if !p.told && p.good >= holderTicks && !l.NoDeadline {
		st.now(timeIsUp, i, func(_ *State, p *process) { p.told = true })
	}
	if !p.told && !p.silent && (p.ending || !p.lock) {
		st.add(heartbeat, i, func(_ *State, p *process) { p.told = true })
	}
	if !l.Orderly || !p.writes() && (p.tx != noTx || p.told) {
		st.add(leaves, i, func(_ *State, p *process) {
			p.pc = done
			p.ending = p.ending || p.hasSession() && !p.silent // or the server does not hear of it
		})
	}
}

func (s *State) tail() uint8 {
	last := uint8(0)
	for _, p := range s.p {
		last = max(last, p.queue)
	}
	return last + 1
}

// server is what the server does for the session of process i.
func (l Lease) server(st *steps, i int) {
	s, p := &st.from, st.from.p[i]
	switch {
	case p.ending && p.queue > 0:
		st.now("leaves the queue", i, func(s *State, p *process) { s.leaveQueue(p); p.gone() })
	case p.ending && p.lock:
		st.now("has its lock taken away", i, func(_ *State, p *process) { p.lock = false; p.gone() })
	case p.queue == 1 && (!s.locked() || l.NoLock):
		is := st.add("is next", i, func(s *State, p *process) { s.leaveQueue(p); p.lock, p.number = true, true })
		st.urgent = st.urgent || is && l.passes(s, i) // it pauses after each time in vain
	case p.lock && !p.granted && l.TwoLooks && !p.sawGate && !s.inGate():
		st.add("finds the gate free", i, func(_ *State, p *process) { p.sawGate = true })
	case p.lock && !p.granted && !l.passes(s, i):
		st.add("gives the lock back", i, func(s *State, p *process) {
			p.lock, p.number, p.sawGate = false, false, false
			p.queue = s.tail()
		})
	case p.lock && !p.granted:
		st.now("is granted the lock", i, func(s *State, p *process) {
			p.granted, p.idle = true, 0
			for j := range s.p {
				s.p[j].late = s.p[j].late || s.p[j].begun && j != i
			}
		})
	case p.lock && p.granted && p.idle >= serverTicks && !l.NoIdleLimit:
		st.now("'s session ends, for silence", i, func(_ *State, p *process) { p.ending = true })
	}
	if p.ending && p.number {
		st.now("has its number taken away", i, func(_ *State, p *process) { p.number = false; p.gone() })
	}
	if (p.tx == open || p.tx == looked) && p.txIdle >= serverTicks {
		st.now("'s transaction ends, for silence", i, func(_ *State, p *process) { p.tx = dead })
	}
	if p.tx == inGate { // it does not wait for the process
		st.now(looks, i, func(_ *State, p *process) {
			p.tx = refused
			if p.number {
				p.tx = open
			}
		})
	}
}

// passes is what the next holder finds when it looks at all locks.
func (l Lease) passes(s *State, i int) bool {
	number := l.GateOnly || !s.otherNumber(i)
	gate := l.NumberOnly || !s.inGate()
	if l.TwoLooks {
		gate = s.p[i].sawGate
	}
	return l.NoLook || l.NoLock || number && gate
}

func (s *State) leaveQueue(p *process) {
	for j := range s.p {
		if s.p[j].queue > p.queue {
			s.p[j].queue--
		}
	}
	p.queue = 0
}

// gone ends the session when it has nothing left.
func (p *process) gone() {
	if !p.hasSession() {
		p.ending, p.granted, p.sawGate, p.idle = false, false, false, 0
	}
}

func (s *State) locked() bool {
	return slices.ContainsFunc(s.p[:], func(p process) bool { return p.lock })
}

func (s *State) otherNumber(i int) bool {
	others := s.p
	others[i].number = false
	return slices.ContainsFunc(others[:], func(p process) bool { return p.number })
}

func (s *State) inGate() bool {
	return slices.ContainsFunc(s.p[:], func(p process) bool { return p.tx == inGate || p.tx == open })
}

func (p process) writes() bool { return p.tx == inGate || p.tx == open || p.tx == looked }

// writer is the transaction of process i.
func (l Lease) writer(st *steps, i int) {
	p := st.from.p[i]
	set := func(name string, to tx) {
		st.add(name, i, func(_ *State, p *process) { p.tx, p.txIdle = to, 0 })
	}
	switch {
	case !p.begun, l.Orderly && p.tx == noTx && p.told:
	case p.tx == noTx && l.NoFence:
		set("begins a transaction", looked)
	case p.tx == noTx && l.NumberFirst && !p.number:
		set("finds its number free", refused)
	case p.tx == noTx && l.NumberFirst:
		set("finds its number taken", looked)
	case p.tx == noTx:
		set("shares the gate", inGate)
	case p.tx == looked && l.NumberFirst:
		set("shares the gate", open)
	case p.tx == looked, p.tx == open:
		set(commits, written)
	}
}

// tick is time that goes by, and the heartbeats of those that can be heard.
func (l Lease) tick(s *State, _ *process) {
	for i := range s.p {
		p := &s.p[i]
		if p.pc == inside && !p.told && !p.frozen && !p.silent && p.lock && !p.ending {
			p.good, p.idle = 0, 0
		} else {
			if p.pc == inside && !p.told {
				p.good = min(p.good+1, holderTicks)
			}
			if p.granted {
				p.idle = min(p.idle+1, serverTicks)
			}
		}
		if p.tx == open || p.tx == looked {
			p.txIdle = min(p.txIdle+1, serverTicks)
		}
	}
}
