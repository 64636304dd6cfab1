//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bootlock/bootlock/test/relay"
)

var lockCall = regexp.MustCompile(`advisory_xact_lock(?:_shared)?\(\(?-?\d+`)

// fake starts what stands for a server that only looks like PostgreSQL: it grants every
// lock, of which it makes another.
func fake(ts *testscript.TestScript, _ []string) {
	u, err := url.Parse(stateOf(ts).dsn)
	ts.Check(err)
	r, err := relay.Listen("127.0.0.1:0", u.Host, func() relay.Tap {
		return func(message []byte, _ bool) {
			for _, call := range lockCall.FindAll(message, -1) {
				copy(call[len(call)-6:], fmt.Sprintf("%06d", rand.IntN(1e6)))
			}
		}
	})
	ts.Check(err)
	ts.Defer(r.Close)
	u.Host = r.Addr
	ts.Setenv("FAKE_URL", u.String())
}
