// Package wire is a network of a known length in front of a server, on which round
// trips can be counted.
package wire

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
)

// Wire is a relay. Its methods may be called concurrently.
type Wire struct {
	DSN string // of the server, by way of the relay

	relay *relay.Relay
	trips atomic.Int64
}

// New starts a relay in front of the server of dsn, which needs to speak without TLS.
// Whatever a client sends arrives after delay, which is the length of a round trip.
// The caller calls Close.
func New(dsn string, delay time.Duration) (*Wire, error) {
	addr, err := pgtest.Addr(dsn)
	if err != nil {
		return nil, err
	}
	w := &Wire{}
	w.relay, err = relay.Listen("127.0.0.1:0", addr, func() relay.Tap {
		count := counter{ready: func() { w.trips.Add(1) }}
		return func(message []byte, fromServer bool) {
			if fromServer {
				count.see(message)
			} else {
				time.Sleep(delay)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	w.DSN = pgtest.WithAddr(dsn, w.relay.Addr)
	return w, nil
}

// Close breaks all connections and accepts no more.
func (w *Wire) Close() { w.relay.Close() }

// Trips is how often the server has told a client that it may go on, not counting the
// first time on each connection.
func (w *Wire) Trips() int64 { return w.trips.Load() }

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
