//go:build unix

package main

import (
	"net/url"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bootlock/bootlock/test/hostile"
	"github.com/bootlock/bootlock/test/relay"
)

// proxy stands between bootlock and the server. It has an address from the start,
// but nobody listens there before it is opened.
type proxy struct {
	address, server string
	relay           *relay.Relay // nil before it is opened
}

func proxyCommand(ts *testscript.TestScript, args []string) {
	state := stateOf(ts)
	if len(args) == 0 {
		u, err := url.Parse(state.dsn)
		ts.Check(err)
		state.proxy = &proxy{server: u.Host}
		state.proxy.address, err = freeAddress()
		ts.Check(err)
		u.Host = state.proxy.address
		ts.Setenv("PROXY_URL", u.String())
		return
	}
	p := state.proxy
	switch args[0] {
	case "open":
		var err error
		p.relay, err = relay.Listen(p.address, p.server, nil)
		ts.Check(err)
	case "freeze":
		p.relay.Silence(relay.Lost)
	case "close":
		p.end()
	default:
		ts.Fatalf("proxy %s?", args[0])
	}
}

func (p *proxy) end() {
	if p.relay != nil {
		p.relay.Close()
	}
}

// fake starts what stands for a server that only looks like PostgreSQL: it grants every
// lock, of which it makes another.
func fake(ts *testscript.TestScript, _ []string) {
	u, err := url.Parse(stateOf(ts).dsn)
	ts.Check(err)
	r, err := relay.Listen("127.0.0.1:0", u.Host, func() relay.Tap {
		return func(message []byte, _ bool) { hostile.AnotherKey(message) }
	})
	ts.Check(err)
	ts.Defer(r.Close)
	u.Host = r.Addr
	ts.Setenv("FAKE_URL", u.String())
}
