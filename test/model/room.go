package model

// Room is the model of the waiting room: processes that take a few turns each at one
// lock. Each needs a connection of the pooler to ask for the lock or to block for it;
// whoever has it needs a second one for its work before it lets go. The pooler serves
// them in the order of their coming. Without a pooler there are connections enough.
//
// A waiter blocks in the server's queue for a burst, and then comes last again, or, if
// the pooler has let it wait or others have waited longer, gives its connection back and
// asks from time to time. Whoever is given the lock lets pass one that is in the queue
// and has waited longer.
type Room struct {
	Processes   int
	Connections int // of the pooler; 0 without one
	Standers    int // how many block while others have waited longer

	NoBursts bool // a rule left out: who blocks does so until it has the lock
}

type roomPhase uint8

const (
	away      roomPhase = iota
	pauses              // waits for the time to ask again
	connects            // waits for a connection to ask with
	connected           // has one
	blocks              // in the server's queue, with its connection
	works               // has the lock, and waits for a connection to work with
	ready               // has the lock and both
)

type roomProcess struct {
	phase roomPhase
	rank  uint8 // 1: has waited longest
	line  uint8 // its place in the pooler's line; 0 outside
	queue uint8 // its place in the server's queue; 0 outside
	turns uint8 // that it will still take
	crowd bool  // the pooler has let it wait
	burst bool  // it has blocked before
}

// RoomState is one state of [Room].
type RoomState struct {
	p [most]roomProcess
}

// Model returns the model to search.
func (r Room) Model() Model[RoomState] {
	m := Model[RoomState]{
		Next: r.Next, Processes: r.Processes,
		Waits: func(s RoomState, i int) bool { return s.p[i].phase != away && !s.p[i].holds() },
	}
	for i := range r.Processes {
		m.Init.p[i].turns = 2
	}
	return m
}

func (p roomProcess) holds() bool { return p.phase == works || p.phase == ready }

func (s RoomState) held() bool {
	for _, p := range s.p {
		if p.holds() {
			return true
		}
	}
	return false
}

// used is how many connections of the pooler are in use.
func (s RoomState) used() int {
	n := 0
	for _, p := range s.p {
		switch p.phase {
		case connected, blocks, works:
			n++
		case ready:
			n += 2
		}
	}
	return n
}

func last(s RoomState, of func(roomProcess) uint8) uint8 {
	n := uint8(0)
	for _, p := range s.p {
		n = max(n, of(p))
	}
	return n
}

// Next returns what can happen in a state.
func (r Room) Next(s RoomState) []Step[RoomState] {
	var all []Step[RoomState]
	granting := !s.held() && last(s, func(p roomProcess) uint8 { return p.queue }) > 0
	for i := range r.Processes {
		p := s.p[i]
		if granting && p.queue != 1 {
			continue // the server comes first
		}
		add := func(name string, change func(s *RoomState, p *roomProcess)) {
			to := s
			change(&to, &to.p[i])
			all = append(all, Step[RoomState]{Name: name, By: i, To: to})
		}
		switch p.phase {
		case away:
			if p.turns == 0 {
				break
			}
			add("wants the lock", func(s *RoomState, p *roomProcess) {
				*p = roomProcess{turns: p.turns - 1, rank: last(*s, func(p roomProcess) uint8 { return p.rank }) + 1}
				r.connect(s, p, connects)
			})
		case pauses:
			add("asks again", func(s *RoomState, p *roomProcess) { r.connect(s, p, connects) })
		case connects, works:
			if p.line == 1 && s.used() < r.Connections {
				add("gets a connection", func(s *RoomState, p *roomProcess) {
					s.leaveLine(p)
					p.phase++
				})
			}
		case connected:
			r.ask(s, p, add)
		case blocks:
			r.block(s, p, add)
		case ready:
			add("lets go", func(s *RoomState, p *roomProcess) { *p = roomProcess{turns: p.turns} })
		}
	}
	return all
}

// connect has p wait in the pooler's line, if it has to.
func (r Room) connect(s *RoomState, p *roomProcess, phase roomPhase) {
	p.phase = phase
	waits := last(*s, func(p roomProcess) uint8 { return p.line })
	if r.Connections == 0 || waits == 0 && s.used() < r.Connections {
		p.phase++
		return
	}
	p.line = waits + 1
	p.crowd = p.crowd || phase == connects
}

func (s *RoomState) leaveLine(p *roomProcess) {
	for j := range s.p {
		if s.p[j].line > p.line {
			s.p[j].line--
		}
	}
	p.line = 0
}

func (s *RoomState) leaveQueue(p *roomProcess) {
	for j := range s.p {
		if s.p[j].queue > p.queue {
			s.p[j].queue--
		}
	}
	p.queue = 0
}

// ask is what comes of asking.
func (r Room) ask(s RoomState, p roomProcess, add func(string, func(*RoomState, *roomProcess))) {
	queued := last(s, func(p roomProcess) uint8 { return p.queue })
	older := 0
	for _, o := range s.p {
		if o.queue > 0 && o.rank < p.rank {
			older++
		}
	}
	crowd := r.Connections > 0 && (p.crowd || p.burst)
	switch {
	case !s.held() && queued == 0:
		add("finds it free", func(s *RoomState, p *roomProcess) { r.enter(s, p) })
	case crowd || older >= r.Standers:
		add("finds it taken", func(_ *RoomState, p *roomProcess) { p.phase = pauses })
	default:
		add("blocks", func(s *RoomState, p *roomProcess) {
			p.queue, p.phase = last(*s, func(p roomProcess) uint8 { return p.queue })+1, blocks
		})
	}
}

// block is what comes of blocking.
func (r Room) block(s RoomState, p roomProcess, add func(string, func(*RoomState, *roomProcess))) {
	if p.queue == 1 && !s.held() {
		for _, o := range s.p {
			if o.queue > 0 && o.rank < p.rank {
				add("lets an older one pass", func(s *RoomState, p *roomProcess) { s.leaveQueue(p); p.phase, p.burst = pauses, true })
				return
			}
		}
		add("is given it", func(s *RoomState, p *roomProcess) { s.leaveQueue(p); r.enter(s, p) })
		return
	}
	if !r.NoBursts {
		add("has blocked for a burst", func(s *RoomState, p *roomProcess) { s.leaveQueue(p); p.phase, p.burst = pauses, true })
	}
}

// enter gives p the lock. Others move up.
func (r Room) enter(s *RoomState, p *roomProcess) {
	for j := range s.p {
		if s.p[j].rank > p.rank {
			s.p[j].rank--
		}
	}
	*p = roomProcess{phase: works, turns: p.turns} // it counts as one connection from here on
	r.connect(s, p, works)
}
