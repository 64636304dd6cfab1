// Package locktrace observes the calls that packages advisorylock and
// schemaguard make, as net/http/httptrace observes an HTTP request.
//
//   - [Log] logs long waits and a long migrate.
//   - [Recorder] keeps the steps, for tests.
//   - [Join] makes one trace of several.
//   - [Trace] is a set of hooks, called at each [Step] with an [Event] and
//     during a wait with a [Wait], for spans and metrics.
//   - [StepError] says at which step a call failed.
//   - [Session] is a server session that holds a lock or waits for one.
//
// Hooks only observe: nothing they do or return changes what is sent to the
// server, and no hook is called after the traced call has returned.
//
// The package follows semantic versioning with its module; new steps and new
// fields may appear in a minor version.
package locktrace

import (
	"context"
	"time"
)

// Step is the name of one call in the order that is traced.
type Step string

// The steps, in their usual order:
//
//	connect  begin  lock  create schema  [bootstrap]  commit  release  migrate
//
// If a step fails, the remaining steps are skipped, and Rollback and Release follow.
const (
	Connect      Step = "connect"       // a connection is taken from the pool
	Begin        Step = "begin"         // BEGIN, READ COMMITTED
	Lock         Step = "lock"          // the advisory lock, including the whole wait for it
	CreateSchema Step = "create schema" // CREATE SCHEMA IF NOT EXISTS
	Bootstrap    Step = "bootstrap"     // Guard.Bootstrap, in the same transaction
	Commit       Step = "commit"        // COMMIT
	Rollback     Step = "rollback"      // ROLLBACK, or the end of a session that is already lost
	Release      Step = "release"       // the connection goes back to the pool, or is closed
	Migrate      Step = "migrate"       // the user's migrate, with the whole pool
	Look         Step = "look"          // is the schema there? asked outside any transaction
	UpToDate     Step = "up to date"    // Guard.UpToDate
	Record       Step = "record"        // the row of Guard.Once, in the lock's own transaction
	Await        Step = "await"         // the whole wait of Guard.Await, with all its questions
)

// Trace is a set of hooks. Any hook may be nil, and a nil *Trace observes
// nothing. Hooks run on the goroutine of the traced call and hold it up for as
// long as they run. One Trace may serve many calls at once, so hooks must be
// safe for concurrent use.
type Trace struct {
	// Start is called before a step, with Duration and Err still zero. The step
	// runs with the context that Start returns, and Done and Waiting get it, so
	// that spans nest. That context must be derived from ctx; nil stands for
	// ctx itself.
	Start func(ctx context.Context, e Event) context.Context

	// Done is called after a step, whether it failed or not. A step that
	// panicked or ended its goroutine is done with an error that says so.
	Done func(ctx context.Context, e Event)

	// Waiting is called when a wait for a lock begins to last, about a second
	// after it began, and every ten seconds or so from then on. Each call costs
	// a short look at pg_locks; there is no look if Waiting is nil.
	Waiting func(ctx context.Context, w Wait)
}

// Event is one step of a call.
type Event struct {
	Step Step

	// For is what the step belongs to in package schemaguard: CreateSchema for
	// the schema's own transaction, which takes milliseconds, and Migrate for
	// migrate and the lock around it, which may take minutes. In package
	// advisorylock it is empty.
	For Step

	Key      int64         // the advisory lock's key
	Name     string        // what the key stands for: a schema or a Locker's Name; may be empty
	Duration time.Duration // how long the step took; zero in Start
	Err      error         // why the step failed; nil if it did not
}

// Wait describes a wait for a lock that somebody else has.
type Wait struct {
	For     Step          // as in Event
	Key     int64         // as in Event
	Name    string        // as in Event
	Waited  time.Duration // since the call began
	Holders []Session     // the sessions that have the lock; empty if unknown

	// Err, if not nil, says why there is no connection to try for the lock, such
	// as a server that has none left (SQLSTATE 53300).
	Err error
}
