package main

import (
	"context"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// attributes gives the command a process group of its own, which is what a
// CTRL_BREAK can be sent to.
func (c *child) attributes() {
	c.group = true
	c.cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

func (c *child) pass(os.Signal) { c.terminate() }

func (c *child) terminate() {
	_ = windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(c.cmd.Process.Pid))
}

func (c *child) kill() { _ = c.cmd.Process.Kill() }

func (c *child) awaitGroup() {}

func endedBy(*os.ProcessState) int { return 0 }

// replace cannot replace this process, so it runs the command as a child.
func (c *child) replace() error { return c.run(context.Background()) }
