package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
)

// tally is what one library did in one mode with one number of processes.
type tally struct {
	library
	mode   mode
	n      int
	rounds int
	failed int
	ready  []time.Duration // of the rounds in which none failed
	texts  map[string]int  // of errors
}

func (t *tally) String() string {
	name := t.name + t.version()
	if t.special != "" {
		name += ", " + t.special
	}
	driver := map[string]string{pq: "lib/pq", pgx: "pgx", pgx + "pool": "pgxpool"}[t.driver]
	median := "–"
	if sorted := slices.Sorted(slices.Values(t.ready)); len(sorted) > 0 {
		median = sorted[len(sorted)/2].Round(time.Millisecond).String()
	}
	return fmt.Sprintf("| %s | %s | %d | %s | %d/%d | %s | %v |", name, driver, t.n, t.mode, t.failed, t.rounds, median, t.texts)
}

// measure runs all rounds. Modes alternate within a round, so that what else
// the machine does falls on all of them alike.
func (p plan) measure(ctx context.Context, server *pgtest.Server, f fleet, done func(*tally)) (all []*tally, err error) {
	for i, l := range libraries {
		if !p.only.MatchString(l.id()) {
			continue
		}
		for _, n := range p.sizesOf(l) {
			var tallies []*tally
			for _, m := range p.modesOf(l, n) {
				tallies = append(tallies, &tally{library: l, mode: m, n: n, texts: map[string]int{}})
			}
			for range p.roundsOf(l) {
				for _, at := range rand.Perm(len(tallies)) {
					if err := p.round(ctx, server, f, i, tallies[at]); err != nil {
						return nil, fmt.Errorf("%s, %d processes, %s: %w", l.id(), n, tallies[at].mode, err)
					}
				}
			}
			for _, t := range tallies {
				done(t)
			}
			all = append(all, tallies...)
		}
	}
	return all, nil
}

func (p plan) round(ctx context.Context, server *pgtest.Server, f fleet, i int, t *tally) error {
	dsn, drop, err := server.CreateDatabase(ctx, "race")
	if err != nil {
		return err
	}
	defer drop()
	dsn = p.dsn(dsn, t.mode)
	timeout := t.timeout
	if timeout == 0 {
		timeout = time.Minute
	}
	results, err := f.do(t.n, order{Library: i, Mode: t.mode, DSN: dsn, Timeout: timeout})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout) // jobs that hang may keep their locks
	defer cancel()
	broken, err := t.broken(ctx, dsn)
	if err != nil {
		return err
	}
	t.add(results, broken)
	return nil
}

func (t *tally) add(results []result, broken bool) {
	ready, failed := time.Duration(0), broken
	for _, r := range results {
		ready = max(ready, r.Took)
		if r.Err == "" && r.Missing > 0 {
			r.Err = "no error, while a table or index is missing"
		}
		if r.Err != "" {
			t.texts[brief(r)]++
			failed = true
		}
	}
	t.rounds++
	if failed {
		t.failed++
		return
	}
	t.ready = append(t.ready, ready)
}

// verdict is an error if a guarded process failed, or if nothing unguarded did
// with a library that has no lock: then the race was none.
func verdict(tallies []*tally) error {
	var errs []error
	control := map[string]int{} // failures without a guard
	for _, t := range tallies {
		if t.mode.guarded() && t.failed > 0 {
			errs = append(errs, fmt.Errorf("failed under the guard: %v", t))
		}
		if !t.mode.guarded() && !t.ownLock {
			control[t.id()] += t.failed // also if that is 0: it has to be in the map
		}
	}
	for id, failures := range control {
		if failures == 0 {
			errs = append(errs, fmt.Errorf("%s: the control group without a guard never failed", id))
		}
	}
	return errors.Join(errs...)
}

// broken reports whether the database is left in a state that the next start
// will not mend, or does not even see.
func (l library) broken(ctx context.Context, dsn string) (bool, error) {
	db, err := sql.Open(pgx, dsn)
	if err != nil {
		return false, err
	}
	defer db.Close()
	missing, err := l.missing(ctx, db)
	if err != nil || missing > 0 || l.doubt == "" {
		return missing > 0, err
	}
	var rows int
	err = db.QueryRowContext(ctx, l.doubt).Scan(&rows)
	return rows > 0, err
}

func (p plan) dsn(dsn string, m mode) string {
	path := schema
	if m == readme {
		path = "public"
	}
	return pgtest.WithParams(dsn, "search_path", path, "example.seconds", fmt.Sprint(p.seconds))
}

var lineBreaks = regexp.MustCompile(`\s+`)

// brief is an error's text for the table, without what differs each time.
func brief(r result) string {
	text := lineBreaks.ReplaceAllString(strings.ToValidUTF8(r.Err, "?"), " ")
	if i := strings.Index(text, "Process "); i > 0 { // the detail of a deadlock has pids
		text = text[:i]
	}
	text = strings.ReplaceAll(fmt.Sprintf("%.160s", text), "|", "/")
	if r.Code != "" && !strings.Contains(text, r.Code) {
		text += " (" + r.Code + ")"
	}
	return text
}
