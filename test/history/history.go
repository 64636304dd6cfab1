// Package history checks what several processes saw of their locks: whether there is
// an order of all that happened, compatible with the times at which each call was made
// and came back, in which a lock with leases and a fence would have behaved like that.
//
//   - history.go: what is recorded
//   - client.go: how one call is recorded
//   - lock.go: the lock that it is compared with
package history

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind says what happened.
type Kind string

// What can happen. All but Ended is said by clients about themselves.
const (
	Granted   Kind = "granted"   // from the call until the callback began
	Refused   Kind = "refused"   // a Try found the lock taken
	Failed    Kind = "failed"    // a wait or a Try ended with another error
	Lost      Kind = "lost"      // the context of the callback ended with ErrLost
	Released  Kind = "released"  // from the end of the callback until the call returned, with OK if that was nil
	Fenced    Kind = "fenced"    // a fence said OK, or that the lease is lost
	Committed Kind = "committed" // a transaction of the holder, behind a fence or not
	Ended     Kind = "ended"     // sessions were ended by somebody else: those of Process, or all
)

// Everybody is the Process of an Ended that may have met the session of anyone.
const Everybody = -1

// Op is one thing that happened, at some moment from Call to Return.
type Op struct {
	Kind         Kind
	Process      int
	Key          int64
	Holder       int  // unique among the grants of a history
	Lease        bool // Granted: by Hold, and not by WithXactLock
	OK           bool
	Call, Return time.Duration

	contended bool // Refused: others had something to do with the lock
}

func (o Op) String() string {
	return fmt.Sprintf("%d of process %d %s, lease %t, OK %t", o.Holder, o.Process, o.Kind, o.Lease, o.OK)
}

// Log collects what happens. It is safe for concurrent use.
type Log struct {
	began time.Time

	mu  sync.Mutex
	ops []Op
}

// New returns an empty log, whose clock begins now.
func New() *Log { return &Log{began: time.Now()} }

// Now is the time on the clock of the log.
func (l *Log) Now() time.Duration { return time.Since(l.began) }

// Add records op, which returns now.
func (l *Log) Add(op Op) {
	op.Return = l.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
}

// Ops returns a copy of what was recorded.
func (l *Log) Ops() []Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ops)
}

// limit is how long one history may be searched for an order. Those of the tests take
// milliseconds.
const limit = 30 * time.Second

// ErrRejected says that no order of what happened is one of a lock that keeps its promises.
var ErrRejected = errors.New("no order of what happened is one of a lock that keeps its promises")

// Check returns nil if the history could be one of a lock that keeps its promises, and
// [ErrRejected] if not.
func Check(ops []Op) error {
	switch porcupine.CheckOperationsTimeout(lock(), operations(ops), limit) {
	case porcupine.Ok:
		return nil
	case porcupine.Illegal:
		return ErrRejected
	}
	return fmt.Errorf("no order of %d operations was found in %v, nor shown not to be there", len(ops), limit)
}

// lingers is how long after the end of a call the server may still have its session, if
// the client could not say goodbye.
const lingers = 10 * time.Second

// operations leaves out what has no effect, and gives Ended, which is said of no lock,
// to each of the locks.
func operations(ops []Op) []porcupine.Operation {
	of := map[int64][]Op{}
	for _, op := range ops {
		if op.Kind != Ended {
			of[op.Key] = append(of[op.Key], op)
		}
	}
	var all []porcupine.Operation
	add := func(op Op) {
		all = append(all, porcupine.Operation{ClientId: op.Process + 1, Input: op, Call: int64(op.Call), Return: int64(op.Return)})
	}
	for _, op := range ops {
		switch op.Kind {
		case Ended:
			for op.Key = range of {
				add(op)
			}
		case Refused:
			op.contended = slices.ContainsFunc(of[op.Key], func(o Op) bool {
				return o != op && o.Call <= op.Return && o.Return+lingers >= op.Call
			})
			add(op)
		case Failed:
		default:
			add(op)
		}
	}
	return all
}
