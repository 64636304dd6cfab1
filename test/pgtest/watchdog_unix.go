//go:build unix

package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A watchdog is a shell in a session of its own that reads from a pipe. This
// process holds the only other end, close-on-exec so that no child of a test
// keeps it open: however this process ends, SIGKILL included, the shell sees the
// end of the file and cleans up.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// startWatchdog starts the shell; cmd.Stdin, Stdout and Stderr are set here. No
// output goes to this process's: `go test` would wait for it to be closed.
func startWatchdog(cmd *exec.Cmd) (*watchdog, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, nil, nil
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return nil, err
	}
	return &watchdog{cmd: cmd, pipe: w}, nil
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
		_, _ = w.pipe.WriteString("done\n")
		_ = w.close()
	}, nil
}
