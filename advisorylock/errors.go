package advisorylock

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bootlock/bootlock/internal/sqlstate"
)

// Errors that callers tell apart with errors.Is. The driver's own error, where
// there is one, stays reachable with errors.As.
var (
	// ErrNotAcquired is what the Try functions return when somebody else has
	// the lock, on another connection or on another goroutine.
	ErrNotAcquired = errors.New("advisorylock: somebody else has the lock")

	// ErrLost says that the session holding the lock ended, or can no longer be
	// relied on, before the work was done: somebody else may have the lock.
	ErrLost = errors.New("advisorylock: the lock was lost")

	// ErrNested is returned at once when a callback, with the context that it was
	// given, tries to lock a key that its own call holds: PostgreSQL would let the
	// two connections wait for each other for ever.
	ErrNested = errors.New("advisorylock: this call already holds the key; use the transaction it was given, or another key")

	// ErrPoolTooSmall is returned at once when the pool has no connection to
	// spare for the lock: Hold needs two, and a callback that takes a second
	// lock on the same pool one more for each.
	ErrPoolTooSmall = errors.New("advisorylock: the pool is too small: raise SetMaxOpenConns, or lock on a pool of its own")

	// ErrUnsupported says that advisory locks of transactions do not work on
	// this server or through this pooler.
	ErrUnsupported = errors.New("advisorylock: transaction-scoped advisory locks do not work here")
)

// errCircle is returned at once to the call that would close a circle of calls of this
// process, each of which has a lock and waits for that of the next.
var errCircle = errors.New("advisorylock: another call has this lock and waits for a lock that this call has: take locks in the same order everywhere")

var errStatementMode = fmt.Errorf("%w: BEGIN is refused, as by a pooler in statement mode; it needs pool_mode=transaction or session", ErrUnsupported)

// WaitError is a wait that ended without the lock, usually because its context
// did: errors.Is finds the context's error and its cause. The [locktrace.StepError]
// around it names the lock.
type WaitError struct {
	Key     Key
	Waited  time.Duration // since the call began, including the wait inside the process
	Holders []Session     // the sessions that had the lock just after the wait, or fenced transactions of an earlier lease; empty if unknown
	Err     error         // what ended the wait
}

// namedHolders is how many holders an error names. There may be hundreds of fenced
// transactions.
const namedHolders = 3

// Error says what ended the wait, how long it lasted, which sessions have the lock
// (three at most), and which SQL would end them.
func (e *WaitError) Error() string {
	text := fmt.Sprintf("%v after waiting %v", e.Err, e.Waited.Round(time.Millisecond))
	var named, calls []string
	for _, h := range e.Holders[:min(len(e.Holders), namedHolders)] {
		holder := h.String()
		if h.Query != "" && !ownStatement(h.Query) {
			holder += fmt.Sprintf(", last statement %.120q", h.Query)
		}
		named = append(named, holder)
		if h.PID != 0 { // not a prepared transaction, which has no session
			calls = append(calls, strings.TrimPrefix(h.TerminateSQL(), "SELECT "))
		}
	}
	if len(named) == 0 {
		return text
	}
	text += "; held by " + strings.Join(named, "; by ")
	if more := len(e.Holders) - len(named); more > 0 {
		text += fmt.Sprintf("; and by %d more", more)
	}
	if len(calls) == 0 {
		return text
	}
	them := "it"
	if len(named) > 1 {
		them = "them"
	}
	return text + "; to end " + them + ": SELECT " + strings.Join(calls, ", ")
}

// ownStatement reports whether query is one of this package's, which says
// nothing about what the holder does.
func ownStatement(query string) bool {
	return query == "SELECT 1" || strings.Contains(query, "bootlock") ||
		strings.Contains(query, "pg_catalog.pg_advisory_xact_lock") ||
		strings.Contains(query, "pg_catalog.pg_try_advisory_xact_lock")
}

// Unwrap returns what ended the wait.
func (e *WaitError) Unwrap() error { return e.Err }

// classify adds the sentinel that err stands for.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case sqlstate.Lost(err) && strings.Contains(err.Error(), "statement pooling"):
		return fmt.Errorf("%w: %w", errStatementMode, err)
	case sqlstate.Of(err) == "42883": // undefined_function
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

// withErrLost says in err that the lock went with its session.
func withErrLost(err error) error {
	if errors.Is(err, ErrLost) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}
