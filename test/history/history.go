// Package history checks what several processes saw of their locks: whether there is
// an order of all that happened, compatible with the times at which each call was made
// and came back, in which a lock with leases and a fence would have behaved like that.
//
//   - history.go: what is recorded
//   - client.go: how one call is recorded
//   - lock.go: the lock that it is compared with
package history

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	told      bool // by a goroutine that woke up for it, and may have been late
}

func (o Op) String() string {
	return fmt.Sprintf("%d of process %d %s, lease %t, OK %t", o.Holder, o.Process, o.Kind, o.Lease, o.OK)
}

// Log collects what happens. It is safe for concurrent use.
type Log struct {
	began time.Time
	slack time.Duration

	mu   sync.Mutex
	ops  []Op
	late time.Duration // the longest that Watch has seen
}

// New returns an empty log, whose clock begins now. slack is how late a goroutine may be
// that tells of the end of a context, beyond what [Log.Watch] sees; none on a fake clock.
func New(slack time.Duration) *Log { return &Log{began: time.Now(), slack: slack} }

// Now is the time on the clock of the log.
func (l *Log) Now() time.Duration { return time.Since(l.began) }

// Add records op, which returns now.
func (l *Log) Add(op Op) {
	op.Return = l.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
}

// Watch measures, until ctx ends, how late this machine wakes up a goroutine. A lease
// that ends while all of a program stands still ends for its holder when the program
// goes on; no lock can do better, and it is not what a history is to show.
func (l *Log) Watch(ctx context.Context) {
	const tick = 10 * time.Millisecond
	for ctx.Err() == nil {
		slept := time.Now()
		time.Sleep(tick)
		late := time.Since(slept) - tick
		l.mu.Lock()
		l.late = max(l.late, late)
		l.mu.Unlock()
	}
}

// Late is the longest delay that [Log.Watch] has seen.
func (l *Log) Late() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.late
}

// Ops returns a copy of what was recorded.
func (l *Log) Ops() []Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	ops := slices.Clone(l.ops)
	for i := range ops {
		if ops[i].told {
			ops[i].Call -= l.slack + l.late
		}
	}
	return ops
}

// limit is how long one history may be searched for an order. Those of the tests take
// milliseconds.
const limit = 30 * time.Second

// Verify returns nil if the history could be one of a lock that keeps its promises. If
// not, its error says where the picture of it is.
func Verify(ops []Op) error {
	err := Check(ops)
	var no *Rejected
	if !errors.As(err, &no) {
		return err
	}
	file, saving := os.CreateTemp("", "bootlock-history-*.html")
	if saving != nil {
		return errors.Join(err, saving)
	}
	// The longest orders that go well, and the operation at which they end.
	saving = errors.Join(porcupine.Visualize(lock(), no.info, file), file.Close())
	return errors.Join(fmt.Errorf("%w: see %s", err, file.Name()), saving)
}

// Check is Verify without a picture. Its error is a [*Rejected] if there is no order.
func Check(ops []Op) error {
	result, info := porcupine.CheckOperationsVerbose(lock(), operations(ops), limit)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Illegal:
		return &Rejected{info: info}
	}
	return fmt.Errorf("no order of %d operations was found in %v, nor shown not to be there", len(ops), limit)
}

// Rejected says that there is no such order.
type Rejected struct{ info porcupine.LinearizationInfo }

func (r *Rejected) Error() string {
	return "no order of what happened is one of a lock that keeps its promises"
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
