package scale

import (
	"time"

	"github.com/bootlock/bootlock/internal/room"
)

// What advisorylock's statements and package room keep to themselves. TestPause holds
// the pauses against the room's own.
const (
	standers = 3
	crowded  = 100 * time.Millisecond

	blink = 10 * time.Millisecond // room.Pace.Blink
)

// wait is that of one who stands in the waiting room: what advisorylock/wait.go does,
// as far as it costs time.
type wait struct {
	*process
	lock          *lock
	shared, lease bool

	c       *conn // nil between two asks, if the waiter has given it back
	began   time.Duration
	pace    room.Pace
	own     *session // where its next transaction has number next, if nobody else uses it
	next    int
	pooled  bool          // others use its session
	crowd   bool          // BEGIN had to wait for others, at least once
	queued  bool          // and this time
	behind  time.Duration // when others were seen to be in front of it, if far is set
	far     bool
	scarce  bool // and the server was short of connections then
	sharers int
}

// acquire takes a lock as WithXactLock does, or Hold (a lease). The caller ends the
// transaction of c and gives it back. With try it returns nil if somebody has it.
func (p *process) acquire(name string, shared, lease, try bool) *conn {
	w := &wait{process: p, lock: p.lock(name), shared: shared, lease: lease, began: p.now, pace: room.Start()}
	for w.c == nil {
		w.reopen()
	}
	w.begin()
	asked, n := w.now, room.Refused
	if try || !lease || w.crowd {
		n = w.ask()
	}
	switch {
	case try && n != room.Granted:
		w.end(w.c)
		w.giveBack(w.c)
		return nil
	case n == room.Granted:
		return w.c
	case w.crowd:
		n = room.Back
	default:
		n = w.stand()
	}
	for !w.after(asked, n) {
		asked = w.now
		n = w.again()
	}
	return w.c
}

// short is the answer of a server that has no connection.
const short = -1

// reopen reports whether there was a connection; if not, it has paused.
func (w *wait) reopen() bool {
	asked := w.now
	c, ok := w.connect()
	if !ok {
		w.pause(w.now-asked, true)
		return false
	}
	w.c, w.own = c, nil
	return true
}

func (w *wait) begin() {
	asked := w.now
	w.process.begin(w.c)
	w.queued = w.now-asked > crowded
	w.crowd = w.crowd || w.queued
}

func (w *wait) pause(took time.Duration, short bool) {
	d := w.pace.Next(w.now-w.began, took, short)
	w.sleep(d/2 + w.chance(d/2))
}

func (w *wait) again() int {
	n := w.restart()
	for n == room.Glance && !w.pooled {
		w.end(w.c)
		w.sleep(blink/2 + w.chance(blink/2))
		n = w.restart()
	}
	return n
}

func (w *wait) restart() int {
	if w.c == nil && !w.reopen() {
		return short
	}
	_, blindly := room.Stand(w.now - w.began)
	peeks := w.pooled || blindly && w.crowd || w.far && w.now-w.behind < room.Burst
	if peeks {
		w.own = nil
		w.alone(w.c, w.costs.Trip)
		if !w.lock.free(true) {
			w.sharers = 0
			return w.mayNot()
		}
	}
	w.begin()
	if !peeks {
		return w.stand()
	}
	if w.sharers > 1 {
		return w.burst(room.Burst, false)
	}
	n := w.ask()
	if n == room.Refused {
		w.sharers++
		n = w.mayNot()
	}
	return n
}

func (w *wait) ask() int {
	if w.lease {
		w.do(w.costs.Lease)
	} else {
		w.trip()
	}
	if w.try(w.c, w.lock, w.shared) {
		return room.Granted
	}
	return room.Refused
}

// mayNot is the answer to a waiter that may not block, as it was told last.
func (w *wait) mayNot() int {
	if w.scarce {
		return room.Leave
	}
	return room.Back
}

// stand asks by a statement that may block.
func (w *wait) stand() int {
	n := w.standOrNot()
	if n == room.Back || n == room.Leave {
		w.behind, w.far, w.scarce = w.now, true, n == room.Leave
	}
	return n
}

func (w *wait) standOrNot() int {
	waited := w.now - w.began
	burst, blindly := room.Stand(waited)
	w.do(w.costs.Burst)
	if blindly {
		n := w.burst(burst, false)
		w.own, w.next = w.c.session, w.c.session.transactions+1
		return n
	}
	strange := w.own != w.c.session || w.next != w.c.session.transactions
	unknown := w.own == nil || w.queued
	w.pooled = w.pooled || w.own != nil && strange
	w.own, w.next = w.c.session, w.c.session.transactions+1
	if w.try(w.c, w.lock, w.shared) {
		return room.Granted
	}
	if n := w.lookAround(); n != room.Refused {
		return n
	}
	switch {
	case unknown:
		return room.Glance
	case strange:
		return room.Back
	}
	return w.burst(burst, true)
}

// burst blocks. Who is granted the lock lets those pass that have waited longer.
func (w *wait) burst(burst time.Duration, looks bool) int {
	if !w.block(w.c, w.lock, request{shared: w.shared, looks: looks && !w.shared, began: w.began}, burst) {
		return room.Refused
	}
	if looks && !w.shared && w.now-w.began >= room.Burst {
		w.look()
		if w.older(room.Burst) > 0 {
			w.unlock(w.c)
			return room.Refused
		}
	}
	return room.Granted
}

func (w *wait) lookAround() int {
	most := standers
	if w.shared {
		most = 1
	}
	w.look()
	left, direct := w.limit-w.open, w.pooling == nil
	switch behind := w.older(0) >= most; {
	case behind && direct && left < max(3, w.limit/4), !behind && direct && left < 3:
		return room.Leave
	case behind:
		return room.Back
	}
	return room.Refused
}

// look is a look at all sessions of the server.
func (w *wait) look() {
	w.use(w.cpu, w.costs.Look+time.Duration(w.open)*w.costs.LookEach)
}

// older is how many are in the queue that have waited longer, by so much.
func (w *wait) older(by time.Duration) (n int) {
	for _, r := range w.lock.queue {
		if r.looks && r.began+by < w.began {
			n++
		}
	}
	return n
}

// after reports whether the waiter has the lock, and otherwise returns when it is time
// to ask again.
func (w *wait) after(asked time.Duration, n int) bool {
	if n == room.Granted {
		return true
	}
	if n == short {
		return false // it has paused
	}
	took := w.now - asked
	w.end(w.c)
	if n == room.Refused {
		return false
	}
	if n == room.Leave || w.pooled && w.now-w.began > room.Burst {
		w.close(w.c)
	} else {
		w.giveBack(w.c)
	}
	w.c = nil
	w.pause(took, n == room.Leave)
	return false
}
