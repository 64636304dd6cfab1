package simulation

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/test/history"
)

// holder is one run of a callback.
type holder struct {
	id        int
	p         *process
	key       advisorylock.Key
	once      bool // it migrates
	name      row
	lease     bool
	ctx       context.Context
	ttl       time.Duration
	over      bool
	seen      *history.Client
	overtaken int       // by which holder, while it ran or later
	migrated  bool      // the callback returned nil
	well      bool      // the call returned nil
	with      []*holder // those that ran at the same time
}

// record is what happened, and the checks of it.
type record struct {
	w       *world
	mu      sync.Mutex
	holders []*holder
	kills   map[*process]time.Time // the last; nil is everybody
	tables  map[string]bool        // of Once, that are there
	rows    map[row]bool           // in them; that of no name is what UpToDate says
	result  Result
}

func (r *record) init(w *world) {
	r.w, r.kills, r.rows = w, map[*process]time.Time{}, map[row]bool{}
	r.tables = map[string]bool{onceTable(schemas[0]): w.Control == LooseRow}
}

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
	if h.once && r.rows[h.name] && r.w.Control != NoLock && !r.unaware(h) {
		r.fail("holder %d migrates %v, which has its row", h.id, h.name)
	}
	for _, o := range r.holders {
		if h.key != o.key {
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

// migrated notes what a callback returned.
func (r *record) migrated(h *holder, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.migrated = err == nil
	if h.once && h.migrated && h.name.name == "" {
		r.rows[h.name] = true
	}
}

// returned checks that of two who had the lock at the same time one is told, and that
// without any fault what has run is not run again.
func (r *record) returned(ctx context.Context, h *holder, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.well = err == nil
	if h.migrated && !h.well && ctx.Err() == nil && r.result.Faults == 0 && r.w.Control == None {
		r.fail("the callback of holder %d of key %d went well, and its call failed without a fault: %v", h.id, h.key, err)
	}
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
		if m := creates.FindStringSubmatch(st); m != nil {
			r.tables[m[1]] = true
		}
		if m := inserts.FindStringSubmatch(st); m != nil {
			r.row(row{m[1], m[2]})
		}
		var id int
		if _, err := fmt.Sscanf(strings.TrimSpace(st), "WRITE %d", &id); err != nil {
			continue
		}
		if h := r.holders[id-1]; h.overtaken != 0 {
			r.fail("a transaction of holder %d of key %d was committed after holder %d had begun", h.id, h.key, h.overtaken)
		}
	}
}

// row is a row of a table of Once.
type row struct{ table, name string }

func onceTable(schema string) string { return `"` + schema + `".bootlock_once` }

// The statements of Once.
var (
	creates = regexp.MustCompile(`^CREATE SCHEMA .* CREATE TABLE IF NOT EXISTS (\S+) `)
	inserts = regexp.MustCompile(`^INSERT INTO (\S+) \(name\) VALUES \('(.*?)'\)`)
	selects = regexp.MustCompile(`^SELECT 1 FROM (\S+) WHERE name OPERATOR\(pg_catalog\.=\) '(.*)'$`)
	looks   = regexp.MustCompile(`n\.nspname OPERATOR\(pg_catalog\.=\) '(.*?)' AND c\.relname`)
)

// row checks a row at the moment of its commit: somebody must have migrated, with a
// lease that still lives.
func (r *record) row(name row) {
	r.rows[name] = true
	for _, h := range r.holders {
		if h.once && h.name == name && h.migrated && h.overtaken == 0 && !h.well {
			return
		}
	}
	r.fail("%v was committed, and nobody who has the lock has migrated", name)
}

func (r *record) has(name row) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rows[name]
}

// hasRow checks what Ensure or Await has returned: nil says that there is a row.
func (r *record) hasRow(name row, err error) error {
	if err == nil && !r.has(name) {
		r.violated("a call returned nil, and there is no %v", name)
	}
	return err
}

// answer is what the tables of Once, and any other, answer to a statement.
func (r *record) answer(c recdriver.Call) (rows int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := selects.FindStringSubmatch(c.Query); m != nil {
		if !r.tables[m[1]] {
			return 0, recdriver.SQLError{Code: "42P01", Message: "relation does not exist"}
		}
		return count(r.rows[row{m[1], m[2]}]), nil
	}
	if m := looks.FindStringSubmatch(c.Query); m != nil {
		return count(r.tables[onceTable(m[1])]), nil
	}
	return 1, nil
}

func count(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
