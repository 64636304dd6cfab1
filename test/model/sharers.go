package model

// Sharers is the model of those who share a lock, again and again, each for longer than
// a burst, beside one who wants it alone: A. It blocks in bursts: after each it leaves the
// server's queue, for a moment in which nobody happens to ask; but the server gives the
// lock to those who block behind.
//
// Sharers do not block. They ask, and find the lock taken if A is in the queue.
type Sharers struct {
	Processes int

	Queue bool // the rule left out: sharers block, too
}

type sharer uint8

const (
	apart   sharer = iota
	behind         // blocks, behind A
	shares         // since the last burst of A
	overdue        // for longer than a burst: it may leave
)

// SharersState is one state of [Sharers]: A first.
type SharersState struct {
	queued, has bool
	p           [most]sharer
}

// Model returns the model to search.
func (h Sharers) Model() Model[SharersState] {
	return Model[SharersState]{
		Next: h.Next, Processes: 1,
		Waits: func(s SharersState, _ int) bool { return !s.has },
	}
}

func (s SharersState) sharing() int {
	n := 0
	for _, p := range s.p {
		if p >= shares {
			n++
		}
	}
	return n
}

// Next returns what can happen in a state.
func (h Sharers) Next(s SharersState) []Step[SharersState] {
	var all []Step[SharersState]
	add := func(name string, by int, change func(s *SharersState)) {
		to := s
		change(&to)
		all = append(all, Step[SharersState]{Name: name, By: by, To: to})
	}
	switch {
	case s.has:
		add("lets go", 0, func(s *SharersState) { s.has = false; s.letIn() })
	case s.queued && s.sharing() == 0:
		add("is given it", 0, func(s *SharersState) { s.has, s.queued = true, false })
	case s.queued:
		add("has blocked for a burst", 0, func(s *SharersState) {
			for i, p := range s.p {
				if p == shares {
					s.p[i] = overdue
				}
			}
			s.letIn()
		})
	default:
		add("blocks", 0, func(s *SharersState) { s.queued = true })
	}
	for i := 1; i < h.Processes; i++ {
		switch s.p[i] {
		case apart:
			if !s.has && !s.queued {
				add("shares it", i, func(s *SharersState) { s.p[i] = shares })
			} else if h.Queue {
				add("blocks", i, func(s *SharersState) { s.p[i] = behind })
			}
		case overdue:
			add("leaves", i, func(s *SharersState) { s.p[i] = apart })
		}
	}
	return all
}

// letIn gives the lock to the sharers in the queue.
func (s *SharersState) letIn() {
	for i, p := range s.p {
		if p == behind {
			s.p[i] = shares
		}
	}
}
