package server_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/server"
)

// A firewall that drops packets answers nothing, and TCP tries for minutes: each
// attempt has a bound of its own, so that there are others.
func TestAttemptIsBounded(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"postgres://user@192.0.2.1/db?sslmode=disable":                   10 * time.Second,
		"postgres://user@192.0.2.1/db?sslmode=disable&connect_timeout=3": 3 * time.Second,
	} {
		config, err := dsn.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		refused := errors.New("not dialled")
		config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left > want {
				t.Errorf("%s: got %v for an attempt, bounded: %t; want %v", text, left, ok, want)
			}
			return nil, refused
		}
		s := server.Open(config, false, nil)
		defer s.Close() //nolint:errcheck // nothing was opened
		err = s.Await(t.Context(), server.Patience{}, func(error) {})
		if !errors.Is(err, refused) {
			t.Errorf("%s: got %v; want the attempt made", text, err)
		}
	}
}
