// Package relay is a network between a client and a server that can go silent, for
// tests.
package relay

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// Silence is what becomes of what is sent while the relay is silent. Nothing is
// closed meanwhile: the end of a connection does not get through either.
type Silence int

const (
	// Lost never arrives. The connections break when the relay speaks again.
	Lost Silence = iota + 1

	// Late arrives when the relay speaks again, as TCP sees to after a short outage:
	// a driver that was given up then comes back and has succeeded.
	Late
)

// Relay passes on what is sent to Addr, both ways, until it is told to be silent. Its
// methods may be called concurrently.
type Relay struct {
	Addr string // host and port to connect to

	server   string
	listener net.Listener
	running  sync.WaitGroup
	closed   chan struct{}

	mu      sync.Mutex
	cancels bool // are dropped
	silence Silence
	speaks  chan struct{} // closed when the relay is not silent
	pairs   map[*pair]struct{}
}

// pair is one connection through the relay.
type pair struct{ client, server net.Conn }

func (p *pair) close() {
	p.client.Close()
	p.server.Close()
}

// New starts a relay in front of the server at a host and port, until the test ends.
func New(t testing.TB, server string) *Relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{
		Addr: listener.Addr().String(), server: server, listener: listener,
		closed: make(chan struct{}), speaks: make(chan struct{}), pairs: map[*pair]struct{}{},
	}
	close(r.speaks)
	r.running.Go(r.accept)
	t.Cleanup(r.Close)
	return r
}

// Silence makes the relay silent, on the connections that are there and on new ones.
func (r *Relay) Silence(kind Silence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silence == 0 {
		r.speaks = make(chan struct{})
	}
	r.silence = kind
}

// DropCancels makes the relay close connections that ask for the cancel of a
// statement, as some proxies do. PgBouncer 1.18 ends itself now and then when it
// gets one ("bad client state").
func (r *Relay) DropCancels() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancels = true
}

// isCancel reports whether a connection's first message asks for a cancel.
func isCancel(message []byte) bool {
	return bytes.HasPrefix(message, []byte{0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e})
}

func (r *Relay) drops(message []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cancels && isCancel(message)
}

// Speak lets everything through again.
func (r *Relay) Speak() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silence == 0 {
		return
	}
	if r.silence == Lost {
		for p := range r.pairs {
			p.close()
		}
	}
	r.silence = 0
	close(r.speaks)
}

// Close breaks all connections and accepts no more. Later calls do nothing.
func (r *Relay) Close() {
	r.mu.Lock()
	select {
	case <-r.closed:
	default:
		close(r.closed)
	}
	r.listener.Close()
	for p := range r.pairs {
		p.close()
	}
	r.mu.Unlock()
	r.running.Wait()
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.running.Go(func() { r.serve(client) })
	}
}

func (r *Relay) serve(client net.Conn) {
	server, err := net.Dial("tcp", r.server)
	if err != nil {
		client.Close()
		return
	}
	p := &pair{client, server}
	if !r.add(p) {
		return
	}
	defer r.remove(p)
	var back sync.WaitGroup
	back.Go(func() { r.pump(p, p.client, p.server) })
	r.pump(p, p.server, p.client)
	back.Wait()
}

// add reports whether the relay is still there for p, which it closes otherwise.
func (r *Relay) add(p *pair) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.closed:
		p.close()
		return false
	default:
		r.pairs[p] = struct{}{}
		return true
	}
}

func (r *Relay) remove(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pairs, p)
}

// pump passes on what comes from one end, and then its end.
func (r *Relay) pump(p *pair, to, from net.Conn) {
	defer p.close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if r.drops(buf[:n]) {
			return
		}
		if n > 0 && r.passes() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			r.awaitSpeech()
			return
		}
	}
}

// passes reports whether what has just come is to be passed on, when its time has
// come.
func (r *Relay) passes() bool {
	r.mu.Lock()
	silence := r.silence
	r.mu.Unlock()
	if silence == Late {
		r.awaitSpeech()
	}
	return silence != Lost
}

func (r *Relay) awaitSpeech() {
	r.mu.Lock()
	speaks := r.speaks
	r.mu.Unlock()
	select {
	case <-speaks:
	case <-r.closed:
	}
}
