package server

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

type sockets struct {
	mu   sync.Mutex
	open map[*socket]bool
}

// socket is a connection that can be watched while somebody else reads from it.
type socket struct {
	net.Conn
	all *sockets

	mu      sync.Mutex
	pid     uint32 // of the server process; a pooler makes it up
	givenUp bool   // by the driver
	unwatch func() // nil: not watched
}

func (s *sockets) register(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &socket{Conn: conn, all: s}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open == nil {
			s.open = map[*socket]bool{}
		}
		s.open[c] = true
		return c, nil
	}
}

// number remembers the server process of a connection.
func number(_ context.Context, conn *pgconn.PgConn) error {
	c := conn.Conn()
	if secure, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = secure.NetConn()
	}
	if c, ok := c.(*socket); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pid = conn.PID()
	}
	return nil
}

// SetDeadline is what pgx does before it says goodbye to the server because a context
// has ended. The server then closes a connection that had no lock.
func (c *socket) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.givenUp = !t.IsZero()
	c.mu.Unlock()
	if !t.IsZero() {
		c.stop()
	}
	return c.Conn.SetDeadline(t)
}

// Close ends the watch first, which uses the connection.
func (c *socket) Close() error {
	c.stop()
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

func (c *socket) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unwatch != nil {
		c.unwatch()
		c.unwatch = nil
	}
}

// WatchLocks calls lost as soon as the other side closes a connection, which is
// sooner than the next heartbeat of its lock would notice. It is called when all
// locks are held: idle connections, whose end means nothing, are closed first.
// The result ends the watch. Where the system offers no way to see a connection
// closed without reading from it, nothing is watched.
func (s *Server) WatchLocks(lost func()) (stop func()) {
	s.DB.SetMaxIdleConns(0)
	s.sockets.mu.Lock()
	defer s.sockets.mu.Unlock()
	var watched []*socket
	s.held = nil
	for c := range s.sockets.open {
		c.mu.Lock()
		if c.pid != 0 && !c.givenUp { // without a pid it is being opened, and may be refused
			s.held = append(s.held, c.pid)
			c.unwatch = watch(c.Conn, lost)
			watched = append(watched, c)
		}
		c.mu.Unlock()
	}
	return func() {
		for _, c := range watched {
			c.stop()
		}
	}
}
