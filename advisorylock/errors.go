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

	// ErrNested is returned at once when a callback asks, with the context that
	// it was given, for a key that its own call holds: PostgreSQL would let the
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

var errStatementMode = fmt.Errorf("%w: BEGIN is refused, as by a pooler in statement mode; it needs pool_mode=transaction or session", ErrUnsupported)

// WaitError is a wait that ended without the lock, most often because its
// context did: errors.Is finds the context's error and its cause.
type WaitError struct {
	Key     Key
	Waited  time.Duration // since the call began, waiting inside the process included
	Holders []Session     // who had the lock just after the wait; empty if that could not be found out
	Err     error         // what ended the wait
}

// Error names the key, the time, every holder, and the SQL that would end it.
func (e *WaitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v after waiting %v for key %d", e.Err, e.Waited.Round(time.Millisecond), e.Key)
	for _, h := range e.Holders {
		fmt.Fprintf(&b, "; held by %v", h)
		if h.Query != "" {
			fmt.Fprintf(&b, ", last statement %.120q", h.Query)
		}
		fmt.Fprintf(&b, ", to end it: %s", h.TerminateSQL())
	}
	return b.String()
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

// lost says in err that the lock went with its session.
func lost(err error) error {
	if errors.Is(err, ErrLost) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}
