//go:build unix

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
)

// A liveness probe kills whoever does not answer three times, ten seconds apart.
// Of 32 pods that start with a migration of a minute, it kills those that queue
// politely, again and again. Here a second stands for ten. On a busy machine it may
// take longer than that until a process has started; what listens is probed from
// its first answer on.
func TestHealthUnderAProber(t *testing.T) {
	const processes, failures = 32, 3
	const interval, migration = time.Second, "6"
	for _, test := range []struct {
		name   string
		health bool
	}{{"without", false}, {"with", true}} {
		t.Run(test.name, func(t *testing.T) {
			dsn := pgtest.Shared(t).NewDB(t)
			var wg sync.WaitGroup
			var mu sync.Mutex
			killed, ready := 0, 0
			for range processes {
				address, err := freeAddress()
				if err != nil {
					t.Fatal(err)
				}
				args := []string{"run", "-q", "--lock", "migrate", "--unless", "SELECT true FROM done"}
				if test.health {
					args = append(args, "--health", address)
				}
				args = append(args, "--", "sh", "-c", "sleep "+migration+`; psql -qX -c "CREATE TABLE done AS SELECT 1" "$DATABASE_URL"`)
				cmd := exec.CommandContext(t.Context(), "bootlock", args...)
				cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
				var said strings.Builder
				cmd.Stderr = &said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				wg.Add(1)
				go func() {
					defer wg.Done()
					ctx, stop := context.WithCancel(context.Background())
					wasKilled := make(chan bool, 1)
					go func() { wasKilled <- probe(ctx, address, interval, failures, test.health, cmd.Process) }()
					err := cmd.Wait()
					stop()
					dead := <-wasKilled
					mu.Lock()
					defer mu.Unlock()
					switch {
					case dead:
						killed++
					case err == nil:
						ready++
					default:
						t.Errorf("got %v of a process that was not killed: %s", err, said.String())
					}
				}()
			}
			wg.Wait()
			t.Logf("%d of %d killed, %d ready", killed, processes, ready)
			if !test.health && killed < processes-1 {
				t.Errorf("got %d killed; want %d or more, or the rest proves nothing", killed, processes-1)
			}
			if test.health && killed != 0 {
				t.Errorf("got %d killed; want none", killed)
			}
		})
	}
}

// probe asks /livez until ctx ends, and kills the process after too many
// failures in a row, as a kubelet does. What will listen is not judged before it
// has answered once.
func probe(ctx context.Context, address string, interval time.Duration, failures int, starting bool, process *os.Process) (killed bool) {
	client := http.Client{Timeout: 5 * time.Second}
	for failed := 0; ; {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(interval):
		}
		response, err := client.Get(fmt.Sprintf("http://%s/livez", address))
		if err == nil {
			_ = response.Body.Close()
		}
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil && response.StatusCode == http.StatusOK:
			failed, starting = 0, false
		case starting:
		default:
			failed++
		}
		if failed == failures {
			_ = process.Kill()
			return true
		}
	}
}
