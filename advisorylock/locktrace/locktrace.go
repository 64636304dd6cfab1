// Package locktrace watches the order of calls that packages advisorylock and
// schemaguard make, as net/http/httptrace watches an HTTP request.
//
//   - [Trace] is a set of hooks, called at each [Step].
//   - [Recorder] is a ready Trace that keeps the steps, for tests and logs.
//   - [StepError] says at which step a call failed.
//   - [Session] is one server session that holds a lock or waits for it.
//
// Hooks only watch: nothing they return or do changes what is sent to the
// server, and no hook is called after the traced call has returned.
//
// The package follows semantic versioning with its module; new steps and new
// fields may appear in a minor version.
package locktrace

import (
	"context"
	"time"
)

// Step names one call in the order that is traced.
type Step string

// The steps, in the order in which they come:
//
//	connect  begin  lock  create schema  [bootstrap]  commit  release  migrate
//
// On failure Rollback and Release take the place of the steps still due.
const (
	Connect      Step = "connect"       // a connection is taken from the pool
	Begin        Step = "begin"         // BEGIN, READ COMMITTED
	Lock         Step = "lock"          // the advisory lock, with all the waiting for it
	CreateSchema Step = "create schema" // CREATE SCHEMA IF NOT EXISTS
	Bootstrap    Step = "bootstrap"     // Guard.Bootstrap, in the same transaction
	Commit       Step = "commit"        // COMMIT; a failure leaves the outcome unknown
	Rollback     Step = "rollback"      // ROLLBACK, or the end of a session that is already lost
	Release      Step = "release"       // the connection goes back to the pool, or is closed
	Migrate      Step = "migrate"       // the user's migrate, with the whole pool
	Look         Step = "look"          // is the schema there? asked outside any transaction
	UpToDate     Step = "up to date"    // Guard.UpToDate
)

// Trace is a set of hooks. Any of them may be nil, and a nil *Trace watches
// nothing. One Trace may serve many calls at once, so hooks must be safe for
// concurrent use; they run on the goroutine of the traced call and hold it up
// for as long as they run.
type Trace struct {
	// Start is called before a step, with Duration and Err still zero. The
	// context that it returns is the one that the step runs with and that Done
	// gets, so that spans nest; nil stands for the one passed in. It must be
	// derived from the one passed in.
	Start func(ctx context.Context, e Event) context.Context

	// Done is called after a step, whether it failed or not. Steps that
	// panicked or ended their goroutine are Done with an error that says so.
	Done func(ctx context.Context, e Event)

	// Waiting is called when the wait for a lock begins to last, about a second
	// after its start, and again from time to time. It costs a short look at
	// pg_locks each time, and nothing when it is nil.
	Waiting func(ctx context.Context, w Wait)
}

// Event is one step.
type Event struct {
	Step     Step
	Key      int64         // the advisory lock's key
	Name     string        // what the key stands for: a schema, a Locker's Name; may be empty
	Duration time.Duration // how long the step took
	Err      error         // nil if the step succeeded
}

// Wait tells of a lock that somebody else has.
type Wait struct {
	Key     int64
	Name    string        // as in Event
	Waited  time.Duration // since the call began
	Holders []Session     // who has the lock; empty if that could not be found out
}
