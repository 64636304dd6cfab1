//go:build unix

package child

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
)

// attributes gives the command a process group of its own, so that signals reach
// its children too. Not on a terminal: there it must stay in the foreground to
// read from it, together with whatever else the shell has started in the same
// pipeline, and what is typed reaches all of them without our help. What we
// send reaches the command alone there.
func (c *Command) attributes() {
	c.group = !signals.OnTerminal()
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: c.group}
	dieWithParent(c.cmd.SysProcAttr)
}

func (c *Command) pass(sig os.Signal) {
	number, _ := sig.(syscall.Signal)
	switch {
	case number == unix.SIGTSTP:
		c.Say("not suspended: the lock would be lost")
	case c.group:
		c.end(number)
	case number != unix.SIGINT && number != unix.SIGQUIT: // these came from the terminal to all
		_ = c.cmd.Process.Signal(number)
	}
}

func (c *Command) terminate() { c.end(unix.SIGTERM) }

func (c *Command) kill() { c.end(unix.SIGKILL) }

func (c *Command) end(sig syscall.Signal) {
	if c.group {
		_ = unix.Kill(-c.cmd.Process.Pid, sig)
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGCONT) // what is stopped would not hear it
		return
	}
	_ = c.cmd.Process.Signal(sig)
}

// awaitGroup waits for the command's children when it was asked to end: a shell
// is gone at once, and what it has started may still be cleaning up.
func (c *Command) awaitGroup(patience time.Duration) {
	if !c.group {
		return
	}
	group := -c.cmd.Process.Pid
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		// As the first process of a container we have inherited them.
		var status unix.WaitStatus
		_, _ = unix.Wait4(group, &status, unix.WNOHANG, nil)
		if unix.Kill(group, 0) == unix.ESRCH {
			return
		}
		if time.Now().After(deadline) {
			_ = unix.Kill(group, unix.SIGKILL)
			return
		}
	}
}

// wait returns the command's exit code when it has ended, as a shell shows it.
//
// The first process of a container inherits whoever has lost their parent, and
// they would stay zombies if it did not wait for them too.
func (c *Command) wait() int {
	for os.Getpid() == 1 {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if pid == c.cmd.Process.Pid {
			return code(status)
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = c.cmd.Wait()
	status, _ := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return code(unix.WaitStatus(status))
}

func code(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// Replace runs the command in the place of this process, and returns only if
// that fails.
func (c *Command) Replace() (code int, err error) {
	err = unix.Exec(c.cmd.Path, c.cmd.Args, c.cmd.Env)
	return 0, fmt.Errorf("%w: %w", ErrCannotRun, &exec.Error{Name: c.cmd.Args[0], Err: err})
}
