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
	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
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
	exitUnknown     = 76  // end: the session is gone, its command perhaps not
	exitOwn         = 125 // anything else that went wrong in bootlock itself
	exitCannotRun   = 126
	exitNotFound    = 127
	exitSignal      = 128 // plus the signal's number
)

const exitHelp = `Exit codes of run and ensure: that of COMMAND, or 128 and the number of the
signal that ended it; else
   64  wrong usage, or a lock that this command already runs under
   69  no answer: the server could not be reached, refused the connection, has
       none left, or is a standby
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
	driver  bool                   // err may be the driver's, and show a password
	reason  string                 // why the wait that ended went on
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
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{code: exitUsage, err: fmt.Errorf("%s\nsee %s --help", dsn.RedactArguments(err.Error()), command)}
	}
	if exit.err != nil {
		attrs := []slog.Attr{slog.Int("exit_code", exit.code)}
		if exit.reason != "" {
			attrs = append(attrs, slog.String("reason", exit.reason))
		}
		if exit.holders != nil {
			attrs = append(attrs, slog.Any("holders", exit.holders))
		}
		text := exit.err.Error()
		if exit.driver {
			text = a.log.driver(exit.err)
		}
		a.log.fail(text, howToEnd(exit.holders, exit.end), attrs...)
	}
	return exit.code
}

func usage(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("not in %v", e.after) }

// failure is err with the exit code that it stands for. ctx is what the work was
// done with.
func (a *app) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit
	}
	code := exitOwn
	var ended *signals.EndedError
	var late *timeoutError
	var unreachable *server.UnreachableError
	switch {
	case errors.Is(err, advisorylock.ErrLost):
		code = exitLost
	case errors.As(context.Cause(ctx), &ended):
		return &exitError{code: exitSignal + ended.Number, err: ended}
	case errors.As(err, &unreachable):
		code, err = exitUnreachable, unreachable
	case errors.As(err, &late) || errors.Is(err, advisorylock.ErrNotAcquired):
		code = exitNotInTime
	// What a pooler in statement mode refuses breaks the connection as well, and
	// is no reason to think that the server is gone.
	case errors.Is(err, advisorylock.ErrUnsupported):
	case sqlstate.Of(err) == "53300":
		code, err = exitUnreachable, fmt.Errorf("the server has no connection left: %w", err)
	case isUnreachable(err):
		code, err = exitUnreachable, fmt.Errorf("the server was lost: %w", err)
	}
	return &exitError{code: code, err: err, driver: true}
}

func isUnreachable(err error) bool {
	var connect *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &connect) || errors.As(err, &network) || sqlstate.Lost(err)
}
