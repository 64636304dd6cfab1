package main

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
)

// tally is what one library did in one mode with one number of processes.
type tally struct {
	Library string
	Folder  string
	Driver  string
	Special string
	OwnLock bool
	Mode    mode
	N       int
	Rounds  int
	Failed  int
	Errors  int
	Silent  int
	Broken  int // a table missing, an index invalid, a version dirty
	Ready   []int64

	Texts map[string]int
}

// measure runs all rounds. Modes alternate within a round, so that what else
// the machine does falls on all of them alike.
func (p plan) measure(ctx context.Context, server *pgtest.Server, f *racers) (*report, error) {
	r := newReport(server)
	for i, l := range libraries {
		if !p.only.MatchString(l.id()) {
			continue
		}
		for _, n := range p.sizesOf(l) {
			begun := time.Now()
			tallies := make([]*tally, 0)
			for _, m := range p.modesOf(l, n) {
				tallies = append(tallies, &tally{
					Library: l.name, Folder: l.folder, Driver: l.driver, Special: l.special, OwnLock: l.ownLock,
					Mode: m, N: n, Texts: map[string]int{},
				})
			}
			for round := range p.roundsOf(l) {
				for _, at := range rand.Perm(len(tallies)) {
					if round > 0 && l.special != "" && tallies[at].Mode == blocking {
						continue // it hangs until its time is up; once will do
					}
					if err := p.round(ctx, server, f, i, tallies[at]); err != nil {
						return nil, fmt.Errorf("%s, %d processes, %s: %w", l.id(), n, tallies[at].Mode, err)
					}
				}
			}
			fmt.Fprintf(os.Stderr, "%-22s %2d processes %5.1fs", l.id(), n, time.Since(begun).Seconds())
			for _, t := range tallies {
				fmt.Fprintf(os.Stderr, " | %s %d/%d %s", t.Mode, t.Failed, t.Rounds, milliseconds(t.median()))
				r.Tallies = append(r.Tallies, t)
			}
			fmt.Fprintln(os.Stderr)
		}
	}
	return r, nil
}

func (p plan) round(ctx context.Context, server *pgtest.Server, f *racers, i int, t *tally) error {
	l := libraries[i]
	dsn, drop, err := server.CreateDatabase(ctx, "race")
	if err != nil {
		return err
	}
	defer drop()
	if dsn, err = p.dsn(dsn, t.Mode); err != nil {
		return err
	}
	timeout := l.timeout
	if timeout == 0 {
		timeout = time.Minute
	}
	results, err := f.Do(t.N, job{Library: i, Mode: t.Mode, DSN: dsn}, timeout)
	if err != nil {
		return err
	}
	broken, err := l.broken(ctx, dsn)
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
		failed = failed || r.Err != "" || r.Missing > 0
		if r.Err != "" {
			t.Errors++
			t.Texts[brief(r)]++
		} else if r.Missing > 0 {
			t.Silent++
		}
	}
	t.Rounds++
	if broken {
		t.Broken++
	}
	if failed {
		t.Failed++
		return
	}
	t.Ready = append(t.Ready, ready.Microseconds())
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

func (p plan) dsn(dsn string, m mode) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Set("search_path", m.searchPath())
	q.Set("example.seconds", fmt.Sprint(p.seconds))
	u.RawQuery = q.Encode()
	return u.String(), nil
}

var lineBreaks = regexp.MustCompile(`\s+`)

// brief is an error's text for the table, without what differs each time.
func brief(r result) string {
	text := lineBreaks.ReplaceAllString(strings.ToValidUTF8(r.Err, "?"), " ")
	if i := strings.Index(text, "Process "); i > 0 { // the detail of a deadlock has pids
		text = text[:i]
	}
	if runes := []rune(text); len(runes) > 160 {
		text = string(runes[:160]) + "…"
	}
	if r.Code != "" && !strings.Contains(text, r.Code) {
		text += " (" + r.Code + ")"
	}
	return text
}
