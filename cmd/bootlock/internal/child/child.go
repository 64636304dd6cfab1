// Package child runs the command that a lock is held for: in a process group of
// its own, so that signals and the loss of the lock reach its children too, and
// so that it does not outlive this process.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
)

// WatchdogCommand is the hidden subcommand of this program that calls [Watchdog].
const WatchdogCommand = "watchdog"

// Errors of a command that does not run.
var (
	ErrNotFound  = errors.New("command not found")
	ErrCannotRun = errors.New("cannot be run")
)

const (
	// leftover bounds how long what a command has started may go on after it,
	// when it was asked to end.
	leftover = 10 * time.Second

	// again is the time in which a second Ctrl-C means more than the first.
	again = 2 * time.Second
)

// Command is a command to be run once. The files beside this one have what a
// system has of its own.
type Command struct {
	Grace     time.Duration // between SIGTERM and SIGKILL when the lock is lost
	KillAfter time.Duration // between a signal that was passed on and SIGKILL; 0: never
	Signals   *signals.Catcher
	Say       func(text string)

	cmd       *exec.Cmd
	group     bool        // it has a process group of its own
	asked     bool        // to end
	interrupt []time.Time // the Ctrl-C so far that came one soon after the other
}

// New prepares a command, so that one that cannot be run is known before any
// lock is taken. It has this process's environment.
func New(args []string, in io.Reader, out, errOut io.Writer) (*Command, error) {
	path, err := exec.LookPath(args[0])
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", args[0], ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrCannotRun, err)
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Env = os.Environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errOut
	return &Command{cmd: cmd}, nil
}

// Setenv adds to the command's environment.
func (c *Command) Setenv(name, value string) { c.cmd.Env = append(c.cmd.Env, name+"="+value) }

// Run runs the command to its end and returns its exit code: 128 and the number
// of the signal, if one ended it. Signals go to it and its children; the end of
// ctx, which is the loss of the lock, ends it, and the error is then the cause.
func (c *Command) Run(ctx context.Context) (code int, err error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	caught := make(chan os.Signal, 16)
	c.Signals.PassTo(caught)
	started, exited := c.start()
	if err := <-started; err != nil {
		return 0, fmt.Errorf("%s: %w: %w", c.cmd.Args[0], ErrCannotRun, err)
	}
	defer c.watch()()

	lost := ctx.Done()
	var kill <-chan time.Time
	for {
		select {
		case sig := <-caught:
			c.pass(sig)
			if signals.Ends(sig) {
				c.asked = true
				c.escalate(sig)
				if kill == nil && c.KillAfter > 0 {
					kill = time.After(c.KillAfter)
				}
			}
		case <-lost:
			lost = nil
			c.asked = true
			c.terminate()
			kill = time.After(c.Grace)
			c.Say(fmt.Sprintf("%v: ending %s", context.Cause(ctx), c.cmd.Args[0]))
		case <-kill:
			c.kill()
		case code := <-exited:
			if c.asked {
				c.awaitGroup(c.patience(lost == nil))
			}
			return code, context.Cause(ctx)
		}
	}
}

// patience is how long the command's children may go on after it.
func (c *Command) patience(lost bool) time.Duration {
	switch {
	case lost:
		return c.Grace
	case c.KillAfter > 0:
		return c.KillAfter
	}
	return leftover
}

// escalate makes more of a Ctrl-C that is the second or third within a short
// time: whoever presses it means it, and the command has not listened.
func (c *Command) escalate(sig os.Signal) {
	if sig != os.Interrupt {
		return
	}
	now := time.Now()
	if n := len(c.interrupt); n > 0 && now.Sub(c.interrupt[n-1]) > again {
		c.interrupt = nil
	}
	c.interrupt = append(c.interrupt, now)
	switch len(c.interrupt) {
	case 1:
	case 2:
		c.terminate()
	default:
		c.kill()
	}
}

// start starts the command on a thread that lives as long as it: on Linux the
// command is killed when the thread that started it ends, see attributes.
func (c *Command) start() (started <-chan error, exited <-chan int) {
	s, e := make(chan error, 1), make(chan int, 1)
	c.attributes()
	go func() {
		runtime.LockOSThread()
		err := c.cmd.Start()
		s <- err
		if err == nil {
			e <- c.wait()
		}
	}()
	return s, e
}
