//go:build unix

package main

import (
	"io"
	"net"
	"net/url"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// proxy stands between bootlock and the server. It has a port from the start,
// but nobody listens there before it is opened.
type proxy struct {
	address, server string

	mu       sync.Mutex
	listener net.Listener
	frozen   bool
	conns    []net.Conn
}

func proxyCommand(ts *testscript.TestScript, neg bool, args []string) {
	state := stateOf(ts)
	if neg || len(args) > 1 {
		ts.Fatalf("usage: proxy [open|freeze|close]")
	}
	if len(args) == 0 {
		u, err := url.Parse(state.dsn)
		ts.Check(err)
		// A port that was just given back is not given out again soon.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		state.proxy = &proxy{address: l.Addr().String(), server: u.Host}
		ts.Check(l.Close())
		u.Host = state.proxy.address
		ts.Setenv("PROXY_URL", u.String())
		return
	}
	switch args[0] {
	case "open":
		ts.Check(state.proxy.open())
	case "freeze":
		state.proxy.freeze()
	case "close":
		state.proxy.end()
	default:
		ts.Fatalf("proxy %s?", args[0])
	}
}

func (p *proxy) open() error {
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return nil
}

func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	go p.copy(server, client)
	p.copy(client, server)
}

func (p *proxy) copy(to, from net.Conn) {
	_, _ = io.Copy(valve{p, to}, from)
	if !p.isFrozen() {
		to.Close()
	}
}

// valve swallows everything while the proxy is frozen.
type valve struct {
	proxy *proxy
	net.Conn
}

func (v valve) Write(b []byte) (int, error) {
	if v.proxy.isFrozen() {
		return len(b), nil
	}
	return v.Conn.Write(b)
}

func (p *proxy) isFrozen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frozen
}

func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = true
}

func (p *proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close()
	}
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}
