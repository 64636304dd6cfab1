//go:build unix

package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/bootlock/bootlock/test/pgtest"
)

func TestMain(m *testing.M) {
	if name := os.Getenv("FROZEN"); name != "" {
		if err := child(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	pgtest.Shutdown()
	os.Exit(code)
}

func TestFrozen(t *testing.T) {
	for want, fenced := range map[string]bool{"first": false, "second": true} {
		t.Run(fmt.Sprintf("fenced=%t", fenced), func(t *testing.T) {
			got, err := show(t.Context(), pgtest.Shared(t).NewDB(t), fenced)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("got the plan of the %s process; want that of the %s", got, want)
			}
		})
	}
}
