package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
)

// The exit codes that are not the command's own. 64 to 75 are those of
// sysexits(3), 125 to 127 those of env(1) and timeout(1).
const (
	exitFailed      = 1   // demo and doctor: the guard does not protect
	exitUsage       = 64  // EX_USAGE
	exitUnreachable = 69  // EX_UNAVAILABLE
	exitLost        = 70  // EX_SOFTWARE
	exitNotInTime   = 75  // EX_TEMPFAIL
	exitOwn         = 125 // anything else that went wrong in bootlock itself
	exitCannotRun   = 126
	exitNotFound    = 127
	exitSignal      = 128 // plus the signal's number
)

const exitHelp = `Exit codes of run and ensure: that of COMMAND, or 128 and the number of the
signal that ended it; else
   64  wrong usage
   69  the server could not be reached, or refused the connection
   70  the lock was lost while COMMAND ran
   75  somebody else had the lock for too long; COMMAND was not started
  125  something else went wrong; COMMAND was not started
  126  COMMAND cannot be run
  127  COMMAND was not found`

// exitError is an error that says how bootlock exits. Without an error in it
// there is nothing to say.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exit reports err, and returns the exit code that it stands for. What comes
// without a code is the command line library's, about the command line.
func (a *app) exit(command string, err error) int {
	if err == nil {
		return 0
	}
	exit := &exitError{exitUsage, fmt.Errorf("%w\nsee %s --help", err, command)}
	_ = errors.As(err, &exit)
	if exit.err != nil {
		a.log.fail(exit.err, slog.Int("exit_code", exit.code))
	}
	return exit.code
}

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// signalError is a signal that asked bootlock to end before COMMAND ran.
type signalError struct {
	name   string
	number int
}

func (e *signalError) Error() string { return "ended by " + e.name }

// timeoutError is the end of --timeout.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("not in %v", e.after) }

// failure is err with the exit code that it stands for. ctx is what the work was
// done with.
func (a *app) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, advisorylock.ErrLost) {
		return &exitError{exitLost, err}
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit
	}
	var ended *signalError
	if errors.As(context.Cause(ctx), &ended) {
		return &exitError{exitSignal + ended.number, ended}
	}
	var late *timeoutError
	if errors.As(context.Cause(ctx), &late) || errors.Is(err, advisorylock.ErrNotAcquired) {
		return &exitError{exitNotInTime, err}
	}
	if isUnreachable(err) {
		return &exitError{exitUnreachable, fmt.Errorf("the server was lost: %w", err)}
	}
	return &exitError{exitOwn, err}
}

// notInTime says who had the lock for too long.
func notInTime(what string, who []advisorylock.Session, within string) error {
	text := "somebody else has " + what
	if within != "" {
		text = what + " was not free " + within
	}
	return &exitError{exitNotInTime, errors.New(text + holders(who))}
}
