// Package simulation runs whole fleets of processes on a fake server and a fake
// clock, with faults in any driver call, and checks that the locks keep what
// they promise. A seed says what the processes do and what goes wrong.
//
//   - world.go: the server, the processes, what happens to all of them
//   - faults.go: what happens to one driver call
//   - work.go: what the processes do
//   - check.go: what must hold
//
// The seed fixes the plan and the faults, by process and number of the call. It
// does not fix the order of goroutines that are ready at the same instant, nor
// the random numbers of the library, so that a seed that failed may have to be
// run a few times.
package simulation

import "github.com/bootlock/bootlock/test/history"

// Config says what is simulated.
type Config struct {
	Seed    uint64
	Control Control

	// Small is three processes that take one lock, by Hold, alone, and write one
	// transaction each time.
	Small bool
}

// Control breaks a schedule on purpose: a check that finds nothing proves
// nothing.
type Control string

// The negative controls.
const (
	None    Control = ""
	NoLock  Control = "no lock"  // callbacks run without any
	NoFence Control = "no fence" // transactions of a lease do without

	LateGrant Control = "late grant" // leases begin however late the grant is told
	LooseRow  Control = "loose row"  // the row of Once is committed by itself, and not with the end of the lock
)

// Result is what a schedule came to.
type Result struct {
	Violations []string
	Entered    int // callbacks that ran
	Faults     int

	History []history.Op // what the processes saw
}
