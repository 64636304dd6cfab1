// Package freeport finds TCP ports for servers that tests start as processes of their own.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The ports tried lie below those that any system gives to outgoing connections
// (Linux: 32768 and up, net.ipv4.ip_local_port_range; elsewhere 49152 and up). A port
// found by listening on 0 lies among them, and on a busy machine one of the hundreds of
// connections that tests open has taken it before the server has started.
const lowest, highest = 10000, 30000

// Find returns a port of 127.0.0.1 on which nobody listens. The caller should listen
// on it soon.
func Find() (int, error) {
	var err error
	for range 100 {
		port := lowest + rand.IntN(highest-lowest)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d: %w", lowest, highest, err)
}
