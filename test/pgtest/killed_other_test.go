//go:build !unix

package pgtest

import (
	"os"
	"testing"
)

func child(string) { os.Exit(1) }

func footprint(*testing.T, string, *Server) (left func() string) {
	return func() string { return "" }
}
