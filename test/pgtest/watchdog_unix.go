//go:build unix

package pgtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ServerDir makes a folder for a server that [RunServer] runs. It is closed to others.
func ServerDir() (string, error) {
	cred, err := serverUser()
	if err != nil {
		return "", err
	}
	parent := ""
	if cred != nil {
		parent = "/tmp" // root's own temporary folder may be closed to the server
	}
	dir, err := os.MkdirTemp(parent, "bootlock-pgtest-")
	if err != nil || cred == nil {
		return dir, err
	}
	if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

// serverUser returns the user to run a server as when this process is root, as
// which servers refuse to run; nil means this user.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("root cannot run a server, and there is no user postgres or nobody")
}

// ServerCommand returns a command of the user of servers, in dir, without the
// variables that would steer a server (PGDATA and the like), with messages in English.
func ServerCommand(dir, name string, args ...string) (*exec.Cmd, error) {
	cred, err := serverUser()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.Env = []string{"LC_ALL=C"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return cmd, nil
}

// RunServer has a shell run a script in dir, as the user of servers. The script has to
// clean up when its standard input ends: it does in stop, which waits for that, and
// however this process ends.
func RunServer(dir, script string, args ...string) (stop func() error, err error) {
	cmd, err := ServerCommand(dir, "/bin/sh", append([]string{"-c", script, "bootlock-pgtest"}, args...)...)
	if err != nil {
		return nil, err
	}
	dog, err := startWatchdog(cmd)
	if err != nil {
		return nil, err
	}
	return dog.close, nil
}

// A watchdog is a shell in a session of its own that reads from a pipe. This
// process holds the only other end, close-on-exec so that no child of a test
// keeps it open: however this process ends, SIGKILL included, the shell sees the
// end of the file and cleans up.
type watchdog struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// startWatchdog starts the shell. No output goes to this process's: `go test` would
// wait for it to be closed.
func startWatchdog(cmd *exec.Cmd) (*watchdog, error) {
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	return &watchdog{cmd: cmd, pipe: pipe}, cmd.Start()
}

// close lets the shell clean up, and waits for it. An immediate shutdown takes the
// server five seconds at most: then it kills what is left.
func (w *watchdog) close() error {
	_ = w.pipe.Close()
	ended := make(chan error, 1)
	go func() { ended <- w.cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(20 * time.Second):
		return fmt.Errorf("the watchdog, process %d, has not cleaned up within 20 s", w.cmd.Process.Pid)
	}
}

// A line on the pipe means that there is nothing left to do. The second try is
// for a container that was still being made when this process was killed.
const containerScript = `
read -r _ && exit 0
docker rm --force --volumes "$1"
sleep 5
docker rm --force --volumes "$1"
`

// watchContainer removes the container when this process ends before done is
// called. It takes the docker command; without it the container's own time limit
// is what is left.
func watchContainer(endpoint, name string) (done func(), err error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return func() {}, nil
	}
	cmd := exec.Command("/bin/sh", "-c", containerScript, "bootlock-pgtest", name)
	// The command may have a context of its own, with another daemon.
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+endpoint)
	w, err := startWatchdog(cmd)
	if err != nil {
		return nil, err
	}
	return func() {
		_, _ = io.WriteString(w.pipe, "done\n")
		_ = w.close()
	}, nil
}
