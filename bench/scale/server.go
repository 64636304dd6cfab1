package scale

import (
	"slices"
	"time"
)

// server is a PostgreSQL with a number of connections, and a pooler in front of it if
// there is one.
type server struct {
	costs   Costs
	cpu     *cores // the server's
	pooling *cores // the pooler's; nil if there is none
	clients *cores // nil if each process has a machine of its own
	network time.Duration

	limit    int // of connections that the server has, for everybody together
	open     int // of those
	idle     []*session
	asking   []*process // for one of the pooler's, in the order in which they came
	locks    map[string]*lock
	migrated bool
	winner   *party

	most, connected, refused, statements int
}

// session is a process of the server.
type session struct {
	transactions int
}

// conn is a process's connection to the server or to the pooler.
type conn struct {
	session *session // behind a pooler only during a transaction
	inside  bool     // a transaction
	held    *lock
	shared  bool
}

// process is one of the fleet.
type process struct {
	*party
	*server
	idle  []*conn  // of its pool
	given *session // by the pooler
}

// do is a statement, or anything else that costs so much.
func (p *process) do(c Cost) {
	p.statements++
	if p.clients != nil {
		p.use(p.clients, c.Client)
	}
	if p.pooling != nil {
		p.use(p.pooling, c.Pooler)
	}
	p.use(p.cpu, c.Server)
	if p.clients == nil {
		p.sleep(p.network + c.Client)
	}
}

func (p *process) trip() { p.do(p.costs.Trip) }

// connect reports whether the server had a connection left.
func (p *process) connect() (*conn, bool) {
	if len(p.idle) > 0 {
		last := len(p.idle) - 1
		c := p.idle[last]
		p.idle = p.idle[:last]
		return c, true
	}
	if p.pooling != nil {
		p.do(p.costs.PoolerConnect)
		p.statements-- // none of the server's
		return &conn{}, true
	}
	if p.open >= p.limit {
		p.refused++
		p.do(p.costs.Refused)
		p.statements--
		return nil, false
	}
	p.opens()
	p.do(p.costs.Connect)
	p.statements--
	return &conn{session: &session{}}, true
}

func (s *server) opens() {
	s.open++
	s.connected++
	s.most = max(s.most, s.open)
}

func (p *process) close(c *conn) {
	if c.session != nil && p.pooling == nil {
		p.open--
	}
}

func (p *process) giveBack(c *conn) { p.idle = append(p.idle, c) }

func (p *process) closeAll() {
	for _, c := range p.idle {
		p.close(c)
	}
	p.idle = nil
}

// take has the pooler give c one of its connections: the one that was used last, or a
// new one, or else the next that comes back.
func (p *process) take(c *conn) {
	if c.session != nil {
		return
	}
	switch {
	case len(p.server.idle) > 0:
		last := len(p.server.idle) - 1
		c.session = p.server.idle[last]
		p.server.idle = p.server.idle[:last]
	case p.open < p.limit:
		p.opens()
		c.session = &session{}
		p.use(p.cpu, p.costs.Connect.Server)
	default:
		p.asking = append(p.asking, p)
		p.given = nil
		p.park()
		c.session = p.given
	}
}

func (p *process) leave(c *conn) {
	if p.pooling == nil || c.session == nil {
		return
	}
	s := c.session
	c.session = nil
	if len(p.asking) == 0 {
		p.server.idle = append(p.server.idle, s)
		return
	}
	next := p.asking[0]
	p.asking = p.asking[1:]
	next.given = s
	p.wake(next.party, 0)
}

func (p *process) begin(c *conn) {
	p.take(c)
	p.trip()
	c.session.transactions++
	c.inside = true
}

// end is COMMIT or ROLLBACK.
func (p *process) end(c *conn) {
	if !c.inside {
		return
	}
	p.trip()
	c.inside = false
	p.unlock(c)
	p.leave(c)
}

// alone is a statement outside transactions.
func (p *process) alone(c *conn, cost Cost) {
	p.take(c)
	p.do(cost)
	c.session.transactions++
	p.leave(c)
}

// lock is an advisory lock, with the queue of those who block for it.
type lock struct {
	alone  bool // somebody has it for itself
	shared int
	queue  []*request
}

type request struct {
	process *process
	shared  bool
	looks   bool          // its statement says how long it has waited
	began   time.Duration // its wait
	granted bool
	timer   *event // the end of the burst
}

func (s *server) lock(name string) *lock {
	if s.locks[name] == nil {
		s.locks[name] = &lock{}
	}
	return s.locks[name]
}

// free reports whether the lock can be had, by somebody who comes after those in the
// queue.
func (l *lock) free(shared bool) bool {
	if l.alone || !shared && l.shared > 0 {
		return false
	}
	return !slices.ContainsFunc(l.queue, func(r *request) bool { return !r.shared || !shared })
}

func (l *lock) grant(shared bool) {
	if shared {
		l.shared++
	} else {
		l.alone = true
	}
}

func (p *process) try(c *conn, l *lock, shared bool) bool {
	if !l.free(shared) {
		return false
	}
	l.grant(shared)
	c.held, c.shared = l, shared
	return true
}

// block waits in the server for the lock, for so long; 0 is for ever.
func (p *process) block(c *conn, l *lock, r request, burst time.Duration) bool {
	if p.try(c, l, r.shared) {
		return true
	}
	r.process = p
	l.queue = append(l.queue, &r)
	if burst > 0 {
		r.timer = p.wake(p.party, burst)
	}
	p.park()
	if !r.granted {
		l.queue = slices.DeleteFunc(l.queue, func(o *request) bool { return o == &r })
		l.settle()
		return false
	}
	c.held, c.shared = l, r.shared
	return true
}

func (p *process) unlock(c *conn) {
	l := c.held
	if l == nil {
		return
	}
	c.held = nil
	if c.shared {
		l.shared--
	} else {
		l.alone = false
	}
	l.settle()
}

// settle grants the lock to those in front of the queue who can have it.
func (l *lock) settle() {
	for len(l.queue) > 0 {
		r := l.queue[0]
		if l.alone || !r.shared && l.shared > 0 {
			return
		}
		l.queue = l.queue[1:]
		l.grant(r.shared)
		r.granted = true
		if r.timer != nil {
			r.timer.off = true
		}
		r.process.wake(r.process.party, 0)
	}
}
