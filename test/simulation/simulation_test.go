package simulation

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/test/history"
)

var (
	schedules = flag.Int("schedules", 400, "how many schedules to run")
	seed      = flag.Uint64("seed", 1, "the seed of the first schedule; the next one has the next")
	repeat    = flag.Int("repeat", 1, "how often to run each")
)

// run runs one schedule in a bubble.
func run(t *testing.T, cfg Config) (r Result) {
	t.Helper()
	watchdog := time.AfterFunc(time.Minute, func() {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		panic(fmt.Sprintf("seed %d: the clock of the bubble stands still", cfg.Seed))
	})
	defer watchdog.Stop()
	defer func() {
		if v := recover(); v != nil {
			panic(fmt.Sprintf("seed %d: %v", cfg.Seed, v))
		}
	}()
	synctest.Test(t, func(*testing.T) { r = Run(cfg) })
	return r
}

func TestSchedules(t *testing.T) {
	var mu sync.Mutex
	ran, callbacks, faults := 0, 0, 0
	next := *seed
	t.Run("workers", func(t *testing.T) {
		for i := range min(runtime.GOMAXPROCS(0), *schedules) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for !t.Failed() {
					mu.Lock()
					s := next
					next++
					mu.Unlock()
					if s >= *seed+uint64(*schedules) { //nolint:gosec // a small number
						return
					}
					for range *repeat {
						r := run(t, Config{Seed: s})
						mu.Lock()
						ran, callbacks, faults = ran+1, callbacks+r.Entered, faults+r.Faults
						mu.Unlock()
						if err := history.Check(r.History); err != nil {
							r.Violations = append(r.Violations, fmt.Sprintf("seed %d: %v", s, err))
						}
						for _, v := range r.Violations {
							t.Error(v)
						}
						if len(r.Violations) > 0 {
							t.Errorf("run it again with: go test ./simulation -run TestSchedules -seed %d -schedules 1 -repeat 100", s)
						}
					}
				}
			})
		}
	})
	t.Logf("%d schedules: %d callbacks, %d faults", ran, callbacks, faults)
}

// The checks find what they are there to find.
func TestControls(t *testing.T) {
	for _, c := range []Control{NoLock, NoFence, LooseRow} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			for s := range uint64(500) {
				if r := run(t, Config{Seed: s, Control: c}); len(r.Violations) > 0 {
					t.Logf("found by seed %d: %s", s, r.Violations[0])
					return
				}
			}
			t.Error("500 schedules found nothing")
		})
	}
}

// So do the histories, by themselves.
func TestHistoriesOfControls(t *testing.T) {
	for _, c := range []Control{NoLock, NoFence, LateGrant} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			for s := range uint64(10_000) {
				r := run(t, Config{Seed: s, Control: c})
				if errors.Is(history.Check(r.History), history.ErrRejected) {
					t.Logf("rejected: that of seed %d, of %d operations", s, len(r.History))
					return
				}
			}
			t.Error("the histories of 10,000 schedules were accepted")
		})
	}
}
