package recdriver

import (
	"context"
	"database/sql/driver"
	"sync"
	"sync/atomic"
	"time"
)

// Mode says after which real driver the fake backend behaves when a wait or a
// connection ends before its time.
type Mode int

const (
	// Plain is for no driver in particular: a ctx that ends a wait gives SQLSTATE 57014, and the connection
	// stays good. A killed one gives 57P01 once, then [driver.ErrBadConn].
	Plain Mode = iota
	// PGX is for pgx: a ctx that ends a wait gives the ctx's error and closes the
	// connection, which nevertheless goes back to the pool (no IsValid) and is
	// found out when it is taken again. A killed one gives 57P01 once.
	PGX
	// LibPQ is for lib/pq: a ctx that ends a wait gives 57014, never the ctx's error, and
	// leaves a bad connection. A killed one gives [driver.ErrBadConn].
	LibPQ
)

var (
	errTerminated = SQLError{Code: "57P01", Message: "terminating connection due to administrator command"}
	errIdle       = SQLError{Code: "25P03", Message: "terminating connection due to idle-in-transaction timeout"}
	errCancelled  = SQLError{Code: "57014", Message: "canceling statement due to user request"}
	errTimeout    = SQLError{Code: "55P03", Message: "canceling statement due to lock timeout"}
	errAborted    = SQLError{Code: "25P02", Message: "current transaction is aborted, commands ignored until end of transaction block"}
)

// A Server simulates the transaction-level advisory locks of one PostgreSQL
// database, for all connections of the drivers made by [Server.Driver]. It
// understands pg_advisory_xact_lock with a number, idle_in_transaction_session_timeout
// in milliseconds until the end of the transaction, and the statements that package
// advisorylock sends: see own.go. All that wait for a lock want it for themselves.
//
// The queue of a lock is first in, first out, as in PostgreSQL: while others wait, a
// try fails, also one for shared mode.
// There are no savepoints, no prepared statements and no deadlock detection.
type Server struct {
	short, plain, pooled, standby atomic.Bool

	mu       sync.Mutex
	locks    map[int64]*lock
	onCommit func(statements []string)
}

// NewServer returns a server without locks.
func NewServer() *Server { return &Server{locks: make(map[int64]*lock)} }

// Driver returns a new driver whose connections are sessions of s.
func (s *Server) Driver(mode Mode) *Driver {
	d := &Driver{server: s, conns: make(map[int]driver.Conn)}
	d.backend = &backend{d: d, server: s, mode: mode}
	return d
}

// Held returns how many sessions hold each lock; keys without one are absent.
func (s *Server) Held() map[int64]int {
	return s.count(func(l *lock) int { return len(l.holders) })
}

// Waiting returns how many sessions wait for each lock; keys without one are
// absent.
func (s *Server) Waiting() map[int64]int {
	return s.count(func(l *lock) int { return len(l.queue) })
}

func (s *Server) count(of func(*lock) int) map[int64]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := make(map[int64]int)
	for key, l := range s.locks {
		if n := of(l); n > 0 {
			counts[key] = n
		}
	}
	return counts
}

// Kill ends the sessions that hold key, as pg_terminate_backend does, and
// returns how many there were. Their locks are free at once; their clients learn
// it from their next call. For one connection there is [Driver.Kill].
func (s *Server) Kill(key int64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.locks[key]
	if l == nil {
		return 0
	}
	var holders []*session
	for h := range l.holders {
		holders = append(holders, h)
	}
	for _, h := range holders {
		h.end(errTerminated)
	}
	return len(holders)
}

// SetShort says whether the server is short of connections.
func (s *Server) SetShort(short bool) { s.short.Store(short) }

// SetStandby says whether the server is a standby, whose locks exclude nobody on the
// primary.
func (s *Server) SetStandby(standby bool) { s.standby.Store(standby) }

// SetPooled says whether a pooler is in between: the server process is not the one
// that the driver was told of.
func (s *Server) SetPooled(pooled bool) { s.pooled.Store(pooled) }

// SetPlain takes plpgsql away from the role, or gives it back.
func (s *Server) SetPlain(plain bool) { s.plain.Store(plain) }

// OnCommit sets what is told of each transaction at the moment of its commit,
// before its locks are free: the statements that were executed in it, except
// those whose last one takes an advisory lock. It must not call s.
func (s *Server) OnCommit(told func(statements []string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onCommit = told
}

type lock struct {
	holders map[*session]bool // true: exclusive
	queue   []*waiter
}

type waiter struct {
	s    *session
	done chan error // nil once granted
}

func (l *lock) compatible(s *session, exclusive bool) bool {
	for h, held := range l.holders {
		if h != s && (held || exclusive) {
			return false
		}
	}
	return true
}

// grant gives l to s if nobody is in the way or ahead. A session that holds it
// already is not held up by the queue, which would wait for it.
func (l *lock) grant(s *session, exclusive bool) bool {
	held, holds := l.holders[s]
	if !l.compatible(s, exclusive) || len(l.queue) > 0 && !holds {
		return false
	}
	l.holders[s] = held || exclusive
	return true
}

// get returns the lock for key. s.mu must be held; settle must follow.
func (s *Server) get(key int64) *lock {
	l := s.locks[key]
	if l == nil {
		l = &lock{holders: make(map[*session]bool)}
		s.locks[key] = l
	}
	return l
}

// settle gives the lock to the next waiter if it is free. s.mu must be held.
func (s *Server) settle(key int64, l *lock) {
	if len(l.queue) > 0 && l.compatible(l.queue[0].s, true) {
		w := l.queue[0]
		l.queue = l.queue[1:]
		l.holders[w.s] = true
		w.done <- nil
	}
	if len(l.holders) == 0 && len(l.queue) == 0 {
		delete(s.locks, key)
	}
}

// A session is the server's side of a connection. All fields are guarded by
// server.mu.
type session struct {
	server *Server
	driver *Driver
	dead   error         // why it ended
	idle   time.Duration // idle_in_transaction_session_timeout
	turn   int           // counts calls, so that a late timer does no harm
}

// start begins a call of the client.
func (s *session) start() error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.turn++
	return s.dead
}

// stop ends a call of the client; without a transaction it frees the locks.
func (s *session) stop(inTx bool) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if !inTx {
		s.idle = 0
		s.free()
	}
	if s.idle == 0 || s.dead != nil {
		return
	}
	turn := s.turn
	time.AfterFunc(s.idle, func() {
		s.server.mu.Lock()
		defer s.server.mu.Unlock()
		if s.turn == turn {
			s.end(errIdle)
		}
	})
}

func (s *session) setIdle(d time.Duration) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.idle = d
}

func (s *session) try(key int64, exclusive bool) bool {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	l := s.server.get(key)
	defer s.server.settle(key, l)
	return s.dead == nil && l.grant(s, exclusive)
}

// acquire waits for a lock. Its error is errCancelled, errTimeout or why the
// session ended.
func (s *session) acquire(ctx context.Context, key int64, timeout time.Duration) error {
	w := &waiter{s, make(chan error, 1)}
	if granted, err := s.enqueue(key, w); granted || err != nil {
		return err
	}
	var expired <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		expired = t.C
	}
	var err error
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		err = errCancelled
	case <-expired:
		err = errTimeout
	}

	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	l := s.server.get(key)
	defer s.server.settle(key, l)
	if !l.leave(w) {
		return <-w.done // granted or ended in between
	}
	return err
}

func (s *session) enqueue(key int64, w *waiter) (granted bool, err error) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if s.dead != nil {
		return false, s.dead
	}
	l := s.server.get(key)
	if l.grant(s, true) {
		return true, nil
	}
	l.queue = append(l.queue, w)
	return false, nil
}

func (l *lock) leave(w *waiter) bool {
	for i, other := range l.queue {
		if other == w {
			l.queue = append(l.queue[:i:i], l.queue[i+1:]...)
			return true
		}
	}
	return false
}

// release gives up one lock, as the end of a subtransaction does.
func (s *session) release(key int64) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if l := s.server.locks[key]; l != nil {
		delete(l.holders, s)
		s.server.settle(key, l)
	}
}

// commit tells of a commit, and reports whether the session lives.
func (s *session) commit(statements []string) bool {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if s.dead == nil && s.server.onCommit != nil {
		s.server.onCommit(statements)
	}
	return s.dead == nil
}

// free gives up all locks. server.mu must be held.
func (s *session) free() {
	for key, l := range s.server.locks {
		if _, holds := l.holders[s]; holds {
			delete(l.holders, s)
			s.server.settle(key, l)
		}
	}
}

func (s *session) terminate(why error) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.end(why)
}

// end ends the session and what it waits for. server.mu must be held.
func (s *session) end(why error) {
	if s.dead != nil {
		return
	}
	s.dead = why
	for key, l := range s.server.locks {
		for _, w := range l.queue {
			if w.s == s && l.leave(w) {
				w.done <- why
				s.server.settle(key, l)
				break
			}
		}
	}
	s.free()
}

// ended reports whether the session is over.
func (s *session) ended() bool {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	return s.dead != nil
}
