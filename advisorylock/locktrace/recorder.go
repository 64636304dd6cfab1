package locktrace

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// Recorder keeps the steps of the calls that it traces. The zero value is ready
// to use. A Recorder is safe for concurrent use and must not be copied.
type Recorder struct {
	mu    sync.Mutex
	steps []Event
	waits []Wait
}

// Trace returns hooks that record into r.
func (r *Recorder) Trace() *Trace {
	return &Trace{
		Done: func(_ context.Context, e Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.steps = append(r.steps, e)
		},
		Waiting: func(_ context.Context, w Wait) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.waits = append(r.waits, w)
		},
	}
}

// Steps returns a copy of the steps so far, in the order in which they ended.
func (r *Recorder) Steps() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.steps)
}

// Waits returns a copy of the waits that Trace.Waiting was told of so far.
func (r *Recorder) Waits() []Wait {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.waits)
}

// String returns the steps in their order, with a ! after each that failed:
// "connect > begin > lock! > rollback > release".
func (r *Recorder) String() string {
	var b strings.Builder
	for i, e := range r.Steps() {
		if i > 0 {
			b.WriteString(" > ")
		}
		b.WriteString(string(e.Step))
		if e.Err != nil {
			b.WriteString("!")
		}
	}
	return b.String()
}
