// Package relay is a network between a client and a server that can go silent and be
// watched, for tests.
package relay

import (
	"encoding/binary"
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

	// Deaf is a client that is late to hear what the server says, which hears the
	// client all the time.
	Deaf
)

// Relay passes on what is sent to Addr, both ways, until it is told to be silent. Its
// methods may be called concurrently.
type Relay struct {
	Addr string // host and port to connect to

	server   string
	tap      func() Tap
	listener net.Listener
	running  sync.WaitGroup
	closed   chan struct{}

	mu      sync.Mutex
	cancels bool // they are dropped
	silence Silence
	speaks  chan struct{} // closed when the relay is not silent
	pairs   map[*pair]struct{}
}

// Tap sees what has come from the client or the server of one connection, just before
// it is passed on, and may delay it. Both directions may call it at the same time.
type Tap func(message []byte, fromServer bool)

// pair is one connection through the relay.
type pair struct {
	client, server net.Conn
	tap            Tap
}

func (p *pair) close() {
	p.client.Close()
	p.server.Close()
}

// New starts a relay in front of the server at a host and port, until the test ends.
func New(t testing.TB, server string) *Relay {
	t.Helper()
	r, err := Listen("127.0.0.1:0", server, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// Listen starts a relay at address, a host and port, in front of the server at another.
// tap, if not nil, is called for each connection. The caller calls Close.
func Listen(address, server string, tap func() Tap) (*Relay, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	if tap == nil {
		tap = func() Tap { return func([]byte, bool) {} }
	}
	r := &Relay{
		Addr: listener.Addr().String(), server: server, tap: tap, listener: listener,
		closed: make(chan struct{}), speaks: make(chan struct{}), pairs: map[*pair]struct{}{},
	}
	close(r.speaks)
	r.running.Go(r.accept)
	return r, nil
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

// DropCancels makes the relay drop every CancelRequest, as some managed poolers do.
func (r *Relay) DropCancels() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancels = true
}

// Reset breaks the connections that are there, as a firewall or a load balancer does
// that has forgotten them. New ones get through.
func (r *Relay) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		p.close()
	}
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
	p := &pair{client, server, r.tap()}
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
		if n > 0 && r.passes(buf[:n], to == p.client) {
			p.tap(buf[:n], to == p.client)
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

// passes reports whether what has just come, from the server or the client, is to be
// passed on, when its time has come.
func (r *Relay) passes(message []byte, fromServer bool) bool {
	r.mu.Lock()
	silence, cancels := r.silence, r.cancels
	r.mu.Unlock()
	if silence == Late || silence == Deaf && fromServer {
		r.awaitSpeech()
	}
	return silence != Lost && (!cancels || fromServer || !cancelRequest(message))
}

// cancelRequest reports whether message is a CancelRequest: a connection's first and
// only message, of its length and a code ("Message Formats" in the manual, 55.7).
func cancelRequest(message []byte) bool {
	return len(message) == 16 && binary.BigEndian.Uint32(message) == 16 && binary.BigEndian.Uint32(message[4:]) == 80877102
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
