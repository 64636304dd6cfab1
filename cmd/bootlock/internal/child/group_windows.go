package child

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
)

// attributes gives the command a process group of its own, which is what a
// CTRL_BREAK can be sent to.
func (c *Command) attributes() {
	c.group = true
	c.cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

func (c *Command) pass(os.Signal) { c.terminate() }

func (c *Command) terminate() {
	_ = windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(c.cmd.Process.Pid))
}

func (c *Command) kill() { _ = c.cmd.Process.Kill() }

func (c *Command) awaitGroup(time.Duration) {}

// watch does nothing: on Windows nothing ends the command when this process is
// killed.
func (c *Command) watch() (stop func()) { return func() {} }

// Watchdog is for Unix only.
func Watchdog(string, io.Reader) error { return errors.New("not on Windows") }

// wait returns the command's exit code when it has ended.
func (c *Command) wait() int {
	_ = c.cmd.Wait()
	return c.cmd.ProcessState.ExitCode()
}

// Replace runs the command as a child, since it cannot replace this process.
func (c *Command) Replace() (code int, err error) { return c.Run(context.Background()) }
