// Package wire is a network of a known length in front of a server, on which round
// trips can be counted.
package wire

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
)

// Wire is a relay. Its methods may be called concurrently.
type Wire struct {
	DSN string // of the server, by way of the relay

	server   string
	delay    time.Duration
	listener net.Listener
	trips    atomic.Int64
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// New starts a relay in front of the server of dsn, which needs to speak without TLS.
// Whatever a client sends arrives after delay, which is the length of a round trip.
// The caller calls Close.
func New(dsn string, delay time.Duration) (*Wire, error) {
	addr, err := pgtest.Addr(dsn)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &Wire{DSN: pgtest.WithAddr(dsn, listener.Addr().String()), server: addr, delay: delay, listener: listener, conns: map[net.Conn]struct{}{}}
	w.running.Go(w.accept)
	return w, nil
}

// Close breaks all connections and accepts no more.
func (w *Wire) Close() {
	w.listener.Close()
	w.mu.Lock()
	for c := range w.conns {
		c.Close()
	}
	w.mu.Unlock()
	w.running.Wait()
}

// Trips is how often the server has told a client that it may go on, not counting the
// first time on each connection.
func (w *Wire) Trips() int64 { return w.trips.Load() }

func (w *Wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.running.Go(func() { w.serve(client) })
	}
}

func (w *Wire) serve(client net.Conn) {
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		client.Close()
		return
	}
	both := []net.Conn{client, server}
	w.mu.Lock()
	for _, c := range both {
		w.conns[c] = struct{}{}
	}
	w.mu.Unlock()
	count := counter{ready: func() { w.trips.Add(1) }}
	var back sync.WaitGroup
	back.Go(func() { pump(client, server, count.see) })
	pump(server, client, func([]byte) { time.Sleep(w.delay) })
	back.Wait()
	w.mu.Lock()
	for _, c := range both {
		delete(w.conns, c)
	}
	w.mu.Unlock()
}

// pump passes on what comes from one end, after see has seen it, and then its end.
func pump(to, from net.Conn, see func(message []byte)) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			see(buf[:n])
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// counter finds the messages ReadyForQuery in what a server sends. Each message is a
// type of one byte, a length of four that counts itself, and the rest ("Message
// Formats" in the manual, 55.7).
type counter struct {
	ready func()
	head  []byte // of the message at hand, as far as it has come
	skip  int    // bytes to come that belong to a message that has been seen
	again bool   // the connection was ready before
}

func (c *counter) see(sent []byte) {
	for len(sent) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(sent))
			c.skip, sent = c.skip-n, sent[n:]
			continue
		}
		n := min(5-len(c.head), len(sent))
		c.head, sent = append(c.head, sent[:n]...), sent[n:]
		if len(c.head) < 5 {
			return
		}
		if c.head[0] == 'Z' {
			if c.again {
				c.ready()
			}
			c.again = true
		}
		c.skip = int(binary.BigEndian.Uint32(c.head[1:])) - 4
		c.head = c.head[:0]
	}
}
