//go:build unix

package child

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// watch starts a process that kills the command's group as soon as this process
// is gone, SIGKILL included: the end of its standard input tells it. By then the
// lock is free, so that the group gets no time to clean up. The result says that
// there is nothing left to watch.
//
// On Linux the command itself is also killed by the kernel (see attributes),
// which does not reach its children, and works on a terminal too, where there is
// no group of its own.
func (c *Command) watch() (stop func()) {
	if !c.group {
		return func() {}
	}
	stop, err := c.startWatchdog()
	if err != nil {
		c.Say(fmt.Sprintf("nothing will end %s if bootlock is killed: %v", c.cmd.Args[0], err))
		return func() {}
	}
	return stop
}

func (c *Command) startWatchdog() (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, WatchdogCommand, strconv.Itoa(c.cmd.Process.Pid))
	cmd.Env = []string{} // not the password in it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return func() {
		_, _ = io.WriteString(in, "done\n")
		_ = in.Close()
		_ = cmd.Wait()
	}, cmd.Start()
}

// Watchdog waits for the end of in, and then kills the process group, unless it
// was told that the group has ended.
func Watchdog(group string, in io.Reader) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	id, err := strconv.Atoi(group)
	if err != nil || id <= 1 {
		return fmt.Errorf("no process group: %q", group)
	}
	told, err := io.ReadAll(in)
	if err != nil || len(told) > 0 {
		return err
	}
	return unix.Kill(-id, unix.SIGKILL)
}
