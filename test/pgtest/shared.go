package pgtest

import (
	"context"
	"sync"
	"testing"
)

var shared struct {
	sync.Mutex
	server *Server
	err    error
}

// Shared returns the one server of this test process, and starts it if need be.
// With no server to be had the test fails; it is not skipped. A TestMain that
// calls [Shutdown] stops the server sooner, but it ends with the process anyway.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = Start(context.Background(), Options{})
	}
	if shared.err != nil {
		tb.Fatalf("%v", shared.err)
	}
	return shared.server
}

// Shutdown stops the server that [Shared] started, if it did.
func Shutdown() {
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		return
	}
	if err := shared.server.Stop(); err != nil {
		shared.server.logf("%v", err)
	}
	shared.server, shared.err = nil, nil
}

// NewDB returns the DSN of an empty database that is dropped at the end of the
// test.
func (s *Server) NewDB(tb testing.TB) string {
	tb.Helper()
	dsn, drop, err := s.CreateDatabase(context.Background(), tb.Name())
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(drop)
	return dsn
}
