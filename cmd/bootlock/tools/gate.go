package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// gate stands in front of the server, and lets the first connections of a round
// through together: the time that programs take to start differs by more than
// the time in which they can lose the race.
type gate struct {
	listener net.Listener
	server   string
	opens    sync.Once
	open     chan struct{}
}

// gateTime opens the gate although not all are there: a tool may have failed.
const gateTime = 20 * time.Second

// newGate opens when n connections have come.
func newGate(server string, n int) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{listener: l, server: server, open: make(chan struct{})}
	timer := time.AfterFunc(gateTime, g.letThrough)
	go func() {
		defer timer.Stop()
		for came := 1; ; came++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if came == n {
				g.letThrough()
			}
			go g.pass(conn)
		}
	}()
	return g, nil
}

func (g *gate) letThrough() { g.opens.Do(func() { close(g.open) }) }

func (g *gate) pass(client net.Conn) {
	defer client.Close()
	<-g.open
	server, err := net.Dial("tcp", g.server)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}

func (g *gate) close() { g.listener.Close() }
