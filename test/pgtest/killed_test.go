//go:build unix

package pgtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ory/dockertest/v3/docker"

	"github.com/bootlock/bootlock/test/await"
)

// footprint returns a function that says what is left of the server, or nothing.
func footprint(t *testing.T, origin string, s *Server) (left func() string) {
	t.Helper()
	if origin == OriginDocker {
		id := strings.TrimSpace(queryText(t, s.DSN, "SELECT pg_read_file('/etc/hostname')"))
		return func() string { return containerLeft(t, id) }
	}
	data := queryText(t, s.DSN, "SHOW data_directory")
	pid, err := strconv.Atoi(strings.SplitN(queryText(t, s.DSN, "SELECT pg_read_file('postmaster.pid')"), "\n", 2)[0])
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		info, err := os.Stat(data)
		if err != nil || info.Sys().(*syscall.Stat_t).Uid == 0 {
			t.Errorf("the data belongs to root (%v)", err)
		}
	}
	return func() string {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Sprintf("process %d is still there (%v)", pid, err)
		}
		if _, err := os.Stat(filepath.Dir(data)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Sprintf("%s is still there (%v)", filepath.Dir(data), err)
		}
		return ""
	}
}

func containerLeft(t *testing.T, id string) string {
	t.Helper()
	pool, closeIdle, err := connectDocker(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer closeIdle()
	c, err := pool.Client.InspectContainer(id)
	var gone *docker.NoSuchContainer
	if errors.As(err, &gone) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("the container %s is still there (%s)", c.Name, c.State.Status)
}

// child is what the test binary does when it is started again by TestKilled: it
// starts a server and a process of its own that outlives it, says so, and waits
// to be killed.
func child(origin string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Start(ctx, Options{Origin: origin})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	heir := exec.Command("sleep", "120")
	if err := heir.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"dsn": s.DSN, "heir": heir.Process.Pid})
	time.Sleep(time.Minute)
	os.Exit(1)
}

// SIGKILL leaves the process no chance to clean up. A child of it that lives on
// must not keep the server alive either: it would if it had inherited the end of
// the watchdog's pipe.
func TestKilled(t *testing.T) {
	for _, origin := range []string{OriginLocal, OriginDocker} {
		t.Run(origin, func(t *testing.T) {
			clean(t)
			need(t, origin)
			if origin == OriginDocker {
				if _, err := exec.LookPath("docker"); err != nil && os.Getenv("BOOTLOCK_REQUIRE_DOCKER") == "" {
					t.Skipf("NOT TESTED: without the docker command the container lives on until its time limit: %v", err)
				}
			}
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), "PGTEST_CHILD="+origin)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			line, err := bufio.NewReader(out).ReadBytes('\n')
			if err != nil {
				t.Fatal(err)
			}
			var started struct {
				DSN  string
				Heir int
			}
			if err := json.Unmarshal(line, &started); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(started.Heir, syscall.SIGKILL) })

			left := footprint(t, origin, &Server{DSN: started.DSN})
			if left() == "" {
				t.Fatal("the server cannot be seen while it runs, so that this test would prove nothing")
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			await.True(t, "gone", func() bool { return left() == "" })
			t.Logf("gone %v after SIGKILL", time.Since(began).Round(time.Millisecond))
			if err := syscall.Kill(started.Heir, 0); err != nil {
				t.Errorf("the heir is gone too, so that this test proved too little: %v", err)
			}
		})
	}
}

// The last resort: the daemon ends the container though the client that asked
// for it has hung up, and the server goes on until then.
func TestExpire(t *testing.T) {
	clean(t)
	needDocker(t)
	s := mustStart(t, Options{Origin: OriginDocker})
	left := footprint(t, OriginDocker, s)
	id := strings.TrimSpace(queryText(t, s.DSN, "SELECT pg_read_file('/etc/hostname')"))
	pool, closeIdle, err := connectDocker(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeIdle()
	expire(t.Context(), pool, id, 2*time.Second)
	if got := queryText(t, s.DSN, "SELECT 'alive'"); got != "alive" {
		t.Errorf("got %q", got)
	}
	await.True(t, "expired", func() bool { return left() == "" })
}
