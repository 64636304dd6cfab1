//go:build unix

package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/bootlock/bootlock/test/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("FENCED") != "" {
		main()
		return
	}
	defer pgtest.Shutdown()
	m.Run()
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
