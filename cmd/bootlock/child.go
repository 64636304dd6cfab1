package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// child is a command that runs under the lock. See child_unix.go and
// child_windows.go for what a system has of its own.
type child struct {
	app     *app
	cmd     *exec.Cmd
	grace   time.Duration // between asking it to end and killing it
	signals *signals

	group    bool // it has a process group of its own
	signaled bool // it was asked to end
}

// command prepares a command, so that one that cannot be run is known before any
// lock is taken.
func (a *app) command(args []string, grace time.Duration, s *signals) (*child, error) {
	path, err := exec.LookPath(args[0])
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return nil, &exitError{exitNotFound, fmt.Errorf("%s: command not found", args[0])}
	case err != nil:
		return nil, &exitError{exitCannotRun, err}
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.out, a.err
	return &child{app: a, cmd: cmd, grace: grace, signals: s}, nil
}

// run runs the command to its end. Signals go to it and its children; the end of
// ctx, which is the loss of the lock, ends it.
func (c *child) run(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	c.signals.passTo(signals)
	started, exited := c.start()
	if err := <-started; err != nil {
		return &exitError{exitCannotRun, fmt.Errorf("%s: %w", c.cmd.Args[0], err)}
	}

	lost := ctx.Done()
	var kill <-chan time.Time
	for {
		select {
		case sig := <-signals:
			c.signaled = c.signaled || ends(sig)
			c.pass(sig)
		case <-lost:
			lost = nil
			c.app.log.say(fmt.Sprintf("%v: ending %s", context.Cause(ctx), c.cmd.Args[0]),
				"the lock was lost, ending the command", slog.String("command", c.cmd.Args[0]))
			c.signaled = true
			c.terminate()
			kill = time.After(c.grace)
		case <-kill:
			c.kill()
		case <-exited:
			if c.signaled {
				c.awaitGroup()
			}
			return c.result()
		}
	}
}

// start starts the command on a thread that lives as long as it: on Linux the
// command is killed when the thread that started it ends, see attributes.
func (c *child) start() (started <-chan error, exited <-chan struct{}) {
	s, e := make(chan error, 1), make(chan struct{})
	c.attributes()
	go func() {
		runtime.LockOSThread()
		defer close(e)
		err := c.cmd.Start()
		s <- err
		if err == nil {
			_ = c.cmd.Wait()
		}
	}()
	return s, e
}

// result is the command's exit code as ours.
func (c *child) result() error {
	state := c.cmd.ProcessState
	code := state.ExitCode()
	if number := endedBy(state); number > 0 {
		code = exitSignal + number
	}
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}
