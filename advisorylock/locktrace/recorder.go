package locktrace

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// Recorder keeps the steps of the calls that it traces. Its zero value is
// ready, it is safe for concurrent use, and it must not be copied.
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

// Waits returns a copy of what Trace.Waiting was told so far.
func (r *Recorder) Waits() []Wait {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.waits)
}

// String is the order of the steps, failed ones marked, as in
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
