//go:build unix

package main

import (
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// attributes gives the command a process group of its own, so that signals reach
// its children too. Not on a terminal: there it must stay in the foreground to
// read from it, together with whatever else the shell has started in the same
// pipeline, and what is typed reaches all of them without our help. What we
// send reaches the command alone there.
func (c *child) attributes() {
	c.group = !onTerminal()
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: c.group}
	dieWithParent(c.cmd.SysProcAttr)
}

// pass passes a signal on.
func (c *child) pass(sig os.Signal) {
	number, _ := sig.(syscall.Signal)
	switch {
	case number == unix.SIGTSTP:
		c.app.log.say("not suspended: the lock would be lost", "not suspended: the lock would be lost")
	case c.group:
		c.end(number)
	case number != unix.SIGINT && number != unix.SIGQUIT: // these came from the terminal to all
		_ = c.cmd.Process.Signal(number)
	}
}

func (c *child) terminate() { c.end(unix.SIGTERM) }

func (c *child) kill() { c.end(unix.SIGKILL) }

func (c *child) end(sig syscall.Signal) {
	if c.group {
		_ = unix.Kill(-c.cmd.Process.Pid, sig)
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGCONT) // what is stopped would not hear it
		return
	}
	_ = c.cmd.Process.Signal(sig)
}

// awaitGroup waits for the command's children when it was asked to end: a shell
// is gone at once, and what it has started may still be cleaning up.
func (c *child) awaitGroup() {
	if !c.group {
		return
	}
	group := -c.cmd.Process.Pid
	for deadline := time.Now().Add(c.grace); ; time.Sleep(10 * time.Millisecond) {
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

// endedBy is the signal that ended a process, or zero.
func endedBy(state *os.ProcessState) int {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return 0
	}
	return int(status.Signal())
}

// replace runs the command in the place of this process.
func (c *child) replace() error {
	err := unix.Exec(c.cmd.Path, c.cmd.Args, os.Environ())
	return &exitError{exitCannotRun, &exec.Error{Name: c.cmd.Args[0], Err: err}}
}
