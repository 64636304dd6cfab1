package simulation

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/history"
)

// holder is one run of a callback.
type holder struct {
	id        int
	p         *process
	key       advisorylock.Key
	exclusive bool
	lease     bool
	ctx       context.Context
	ttl       time.Duration
	over      bool
	seen      *history.Client
	overtaken int       // by which holder, while it ran or later
	well      bool      // the call returned nil
	with      []*holder // those that ran at the same time
}

func (h *holder) conflicts(o *holder) bool { return h.key == o.key && (h.exclusive || o.exclusive) }

// record is what happened, and the checks of it.
type record struct {
	w       *world
	mu      sync.Mutex
	holders []*holder
	kills   map[*process]time.Time // the last; nil is everybody
	done    bool                   // what UpToDate says
	result  Result
}

func (r *record) init(w *world) { r.w, r.kills = w, map[*process]time.Time{} }

func (r *record) violated(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail(format, args...)
}

func (r *record) fail(format string, args ...any) {
	at := time.Since(r.w.began)
	r.result.Violations = append(r.result.Violations, fmt.Sprintf("seed %d, at %v: ", r.w.Seed, at)+fmt.Sprintf(format, args...))
}

func (r *record) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Faults++
}

func (r *record) isCalm() bool {
	select {
	case <-r.w.calm:
		return true
	default:
		return false
	}
}

// killed notes that sessions of p, or everybody's, are being ended.
func (r *record) killed(p *process) {
	who := history.Everybody
	if p != nil {
		who = p.number
	}
	r.w.log.Add(history.Op{Kind: history.Ended, Process: who, Call: r.w.log.Now()})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kills[p] = time.Now()
}

// enter begins a callback. Two may believe that they have the lock only after
// the session of the first was ended, and not for longer than its lease.
func (r *record) enter(h *holder) *holder {
	real := h.p.driver.Holds(int64(h.key))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Entered++
	h.id = len(r.holders) + 1
	if !real && r.w.Control == None && !r.unaware(h) {
		r.fail("holder %d of key %d began without the lock, and nobody had ended its session", h.id, h.key)
	}
	for _, o := range r.holders {
		if !h.conflicts(o) {
			continue
		}
		// Whoever is told of its grant when the session is gone already begins, but
		// is not the next one.
		if (real || r.w.Control != None) && h.lease && o.overtaken == 0 {
			o.overtaken = h.id
		}
		if o.over {
			continue
		}
		o.with, h.with = append(o.with, h), append(h.with, o)
		if o.ctx.Err() != nil {
			continue
		}
		r.result.Overlaps++
		if !r.unaware(o) && !r.unaware(h) {
			r.fail("holder %d of key %d began while holder %d believed that it had it, and nobody had ended the session of either", h.id, h.key, o.id)
		}
	}
	r.holders = append(r.holders, h)
	return h
}

// leave ends a callback.
func (r *record) leave(h *holder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.over = true
}

// unaware reports whether somebody ended the session of h and h cannot know yet. The
// transaction of WithXactLock learns it by its commit at the latest.
func (r *record) unaware(h *holder) bool {
	last := r.kills[nil]
	if own := r.kills[h.p]; own.After(last) {
		last = own
	}
	return !last.IsZero() && (!h.lease || time.Since(last) <= h.ttl)
}

// returned checks that of two who had the lock at the same time one is told.
func (r *record) returned(h *holder, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.well = err == nil
	for _, o := range h.with {
		if h.well && o.well {
			r.fail("holders %d and %d of key %d ran at the same time, and both returned nil", o.id, h.id, h.key)
		}
	}
}

// committed checks a transaction at the moment of its commit. What a holder
// wrote must not be committed once the next one has begun.
func (r *record) committed(statements []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, st := range statements {
		var id int
		if _, err := fmt.Sscanf(strings.TrimSpace(st), "WRITE %d", &id); err != nil {
			continue
		}
		r.result.Committed++
		if h := r.holders[id-1]; h.overtaken != 0 {
			r.fail("a transaction of holder %d of key %d was committed after holder %d had begun", h.id, h.key, h.overtaken)
		}
	}
}
