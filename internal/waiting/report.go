package waiting

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
)

const (
	// Patience is when Trace.Waiting is called first, and reportEvery how often from
	// then on.
	Patience    = time.Second
	reportEvery = 10 * time.Second

	// lookTime bounds a look at who has the lock.
	lookTime = 5 * time.Second
)

// Report tells Trace.Waiting of one wait. It has a timer of its own, since a
// single call of the driver may last longer than what is left until a report is
// due, and the hook runs on the waiting goroutine, wherever that waits.
type Report struct {
	hook func(ctx context.Context, w locktrace.Wait)
	look func(ctx context.Context) ([]locktrace.Session, error)
	due  chan func(ctx context.Context) // run by the waiting goroutine

	ctx    context.Context // for looks; ends with the wait
	cancel context.CancelFunc
	timer  *time.Timer
	busy   sync.WaitGroup // a look that is under way

	began time.Time
	spent atomic.Int64 // nanoseconds, by hooks: it counts as nobody's wait

	mu   sync.Mutex
	wait locktrace.Wait
}

// Begin begins a wait that w describes. The wait must run with the context that it
// returns, and end with [Report.End]. look finds out who is in the way.
func Begin(ctx context.Context, t *locktrace.Trace, w locktrace.Wait, look func(ctx context.Context) ([]locktrace.Session, error)) (context.Context, *Report) {
	r := &Report{wait: w, look: look, began: time.Now(), cancel: func() {}}
	if t == nil || t.Waiting == nil {
		return ctx, r
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hook, r.due = t.Waiting, make(chan func(context.Context), 1)
	r.ctx, r.cancel = context.WithCancel(bounded.WithHooks(ctx, nil))
	r.busy.Add(1)
	r.timer = time.AfterFunc(Patience, r.find)
	return bounded.WithHooks(ctx, r.due), r
}

// Waited is how long the wait has lasted.
func (r *Report) Waited() time.Duration { return time.Since(r.began) }

// Because sets what keeps the waiter from polling, nil if nothing does.
func (r *Report) Because(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wait.Err = err
}

// Since is the time since then, without what hooks spent of it.
func (r *Report) Since() func() time.Duration {
	then, before := time.Now(), r.spent.Load()
	return func() time.Duration { return time.Since(then) - time.Duration(r.spent.Load()-before) }
}

// End ends the wait. No hook is called from then on, and nothing goes on in the
// background.
func (r *Report) End() {
	r.mu.Lock()
	r.cancel()
	if r.timer != nil && r.timer.Stop() {
		r.busy.Done()
	}
	r.mu.Unlock()
	r.busy.Wait()
	select {
	case <-r.due: // too late to be told
	default:
	}
}

// find runs when a report is due, on the timer's goroutine.
func (r *Report) find() {
	defer r.busy.Done()
	ctx, cancel := context.WithTimeout(r.ctx, lookTime)
	defer cancel()
	r.mu.Lock()
	w := r.wait
	r.mu.Unlock()
	if w.Err == nil {
		var err error
		if w.Holders, err = r.look(ctx); err != nil && len(w.Holders) == 0 && ctx.Err() == nil {
			w.Err = err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil { // the wait is over
		return
	}
	r.busy.Add(1)
	r.timer.Reset(reportEvery)
	select {
	case r.due <- func(ctx context.Context) { r.tell(ctx, w) }:
	default: // the last report has not been heard yet
	}
}

func (r *Report) tell(ctx context.Context, w locktrace.Wait) {
	w.Waited = r.Waited()
	began := time.Now()
	defer func() { r.spent.Add(int64(time.Since(began))) }()
	r.hook(ctx, w)
}
