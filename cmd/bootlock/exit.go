package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/server"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
	"github.com/bootlock/bootlock/internal/sqlstate"
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
   64  wrong usage, or a lock that this command already runs under
   69  the server could not be reached, refused the connection, or is a standby
   70  the lock was lost while COMMAND ran
   75  somebody else had the lock for too long; COMMAND was not started (-E)
  125  something else went wrong, such as a pooler in statement mode or an error
       of --bootstrap; COMMAND was not started
  126  COMMAND cannot be run
  127  COMMAND was not found`

// exitError is an error that says how bootlock exits. Without an error in it
// there is nothing to say.
type exitError struct {
	code    int
	err     error
	holders []advisorylock.Session // who is in the way
	end     string                 // the command that would end them
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
	exit := &exitError{code: exitUsage, err: fmt.Errorf("%w\nsee %s --help", err, command)}
	_ = errors.As(err, &exit)
	if exit.err != nil {
		attrs := []slog.Attr{slog.Int("exit_code", exit.code)}
		if exit.holders != nil {
			attrs = append(attrs, slog.Any("holders", exit.holders))
		}
		a.log.fail(exit.err.Error(), holders(exit.holders, exit.end), attrs...)
	}
	return exit.code
}

func usage(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// exitWith is the end with the exit code of COMMAND.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

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
		return &exitError{code: exitLost, err: err}
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit
	}
	var ended *signals.EndedError
	if errors.As(context.Cause(ctx), &ended) {
		return &exitError{code: exitSignal + ended.Number, err: ended}
	}
	var late *timeoutError
	if errors.As(err, &late) || errors.Is(err, advisorylock.ErrNotAcquired) {
		return &exitError{code: exitNotInTime, err: err}
	}
	// What a pooler in statement mode refuses breaks the connection as well, and
	// is no reason to think that the server is gone.
	if errors.Is(err, advisorylock.ErrUnsupported) {
		return &exitError{code: exitOwn, err: err}
	}
	var unreachable *server.UnreachableError
	if errors.As(err, &unreachable) {
		return &exitError{code: exitUnreachable, err: unreachable}
	}
	if isUnreachable(err) {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("the server was lost: %w", err)}
	}
	return &exitError{code: exitOwn, err: err}
}

// isUnreachable reports whether err says that there is no server, or no longer.
func isUnreachable(err error) bool {
	var connect *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &connect) || errors.As(err, &network) || sqlstate.Lost(err)
}
