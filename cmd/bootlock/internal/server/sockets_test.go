//go:build linux

package server

import (
	"net"
	"testing"
	"time"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
)

// A waiter looks for the holder on another connection, which it gives up once it has the
// lock. When the server closed that connection, bootlock took the lock for lost and ended
// COMMAND.
func TestGivenUpIsNotWatched(t *testing.T) {
	config, err := dsn.Parse("postgres://user@127.0.0.1:1/db")
	if err != nil {
		t.Fatal(err)
	}
	s := Open(config, true, nil)
	defer s.Close() //nolint:errcheck // nothing was opened
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := s.sockets.register((&net.Dialer{}).DialContext)
	var conns [2]*socket
	for i := range conns {
		conn, err := dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn.(*socket)
		conns[i].pid = uint32(i + 1)
	}
	giveUp := func(c *socket) {
		if err := c.SetDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	giveUp(conns[0])
	defer s.WatchLocks(func() {})()
	if conns[0].unwatch != nil || conns[1].unwatch == nil || len(s.held) != 1 {
		t.Errorf("got watched: %t, %t; want the second only", conns[0].unwatch != nil, conns[1].unwatch != nil)
	}
	giveUp(conns[1])
	if conns[1].unwatch != nil {
		t.Error("one that is given up later is still watched")
	}
}
