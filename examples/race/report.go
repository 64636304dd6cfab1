package main

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/bootlock/bootlock/test/pgtest"
)

// report is a whole run.
type report struct {
	Server   string
	Go       string
	CPUs     int
	Versions map[string]string // by library
	Tallies  []*tally
}

func newReport(server *pgtest.Server) *report {
	r := &report{Server: server.Version, Go: runtime.Version(), CPUs: runtime.NumCPU(), Versions: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return r
	}
	for _, l := range libraries {
		for _, dep := range info.Deps {
			if dep.Path == l.module {
				r.Versions[l.name] = strings.TrimPrefix(dep.Version, "v")
			}
		}
	}
	return r
}

// verdict is an error if a guarded process failed, or if nothing unguarded did
// with a library that has no lock: then the race was none.
func (r *report) verdict() error {
	var errs []error
	control := map[string]int{} // failures without a guard
	for _, t := range r.Tallies {
		id := t.Folder + "/" + t.Driver
		if t.Mode.guarded() && t.Failed > 0 {
			errs = append(errs, fmt.Errorf("%s, %d processes, %s: %d of %d rounds failed: %v", id, t.N, t.Mode, t.Failed, t.Rounds, t.Texts))
		}
		if (t.Mode == readme || t.Mode == schemaFirst) && !t.OwnLock {
			control[id] += t.Failed // also if that is 0: it has to be in the map
		}
	}
	for id, failures := range control {
		if failures == 0 {
			errs = append(errs, fmt.Errorf("%s: the control group without a guard never failed", id))
		}
	}
	return errors.Join(errs...)
}

// median is in microseconds, of the rounds in which nobody failed; 0 if there
// was none.
func (t *tally) median() int64 {
	if len(t.Ready) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t.Ready))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func milliseconds(us int64) string {
	if us == 0 {
		return "–"
	}
	return fmt.Sprintf("%d ms", (us+500)/1000)
}

// row is one library over one driver, with its tallies.
type row struct {
	*tally // any of them
	all    []*tally
}

func (r *report) rows(special bool) []row {
	var rows []row
	for _, t := range r.Tallies {
		if (t.Special != "") != special {
			continue
		}
		if last := len(rows) - 1; last < 0 || rows[last].Folder != t.Folder || rows[last].Driver != t.Driver {
			rows = append(rows, row{tally: t})
		}
		rows[len(rows)-1].all = append(rows[len(rows)-1].all, t)
	}
	return rows
}

// find returns nil if l was not run like that.
func (l row) find(m mode, n int) *tally {
	for _, t := range l.all {
		if t.Mode == m && (n == 0 || t.N == n) {
			return t
		}
	}
	return nil
}

// failures has the rounds in which at least one process failed.
func (r *report) failures(special bool) table.Writer {
	w := table.NewWriter()
	rows := r.rows(special)
	var modes []mode
	for _, m := range []mode{readme, schemaFirst, schemaOnly, serialize, once, blocking} {
		if slices.ContainsFunc(rows, func(l row) bool { return l.failed(m) != "" }) {
			modes = append(modes, m)
		}
	}
	header := table.Row{"library", "driver"}
	for _, m := range modes {
		header = append(header, m)
	}
	w.AppendHeader(header)
	for _, l := range rows {
		cells := table.Row{l.title(), l.driverName()}
		for _, m := range modes {
			cells = append(cells, l.failed(m))
		}
		w.AppendRow(cells)
	}
	return w
}

func (t *tally) driverName() string {
	return map[string]string{pq: "lib/pq", pgx: "pgx", pgx + "pool": "pgxpool"}[t.Driver]
}

// failed is such as "0/20 · 12/20 · 11/20", in the order of the sizes.
func (l row) failed(m mode) string {
	var parts []string
	for _, t := range l.all {
		if t.Mode == m {
			parts = append(parts, fmt.Sprintf("%d/%d", t.Failed, t.Rounds))
		}
	}
	if parts == nil {
		return ""
	}
	return strings.Join(parts, " · ")
}

// times has the time until all of n processes are ready.
func (r *report) times(n int) table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"library", "driver", readme, blocking, schemaOnly, serialize, "×", once, "×"})
	for _, l := range r.rows(false) {
		base := l.find(blocking, n)
		if base == nil {
			continue
		}
		cells := table.Row{l.Library, l.driverName()}
		for _, m := range []mode{readme, blocking, schemaOnly, serialize, once} {
			t := l.find(m, n)
			if t == nil {
				t = &tally{}
			}
			cells = append(cells, milliseconds(t.median()))
			if m == serialize || m == once {
				cells = append(cells, ratio(t, base))
			}
		}
		w.AppendRow(cells)
	}
	return w
}

// ratio is such as "1.07 (0.97–1.21)": that of the medians, and 95 % of what it
// is when the rounds are drawn anew. A ratio without that says little on a
// machine that does other things as well.
func ratio(t, base *tally) string {
	if len(t.Ready) == 0 || len(t.Ready) != len(base.Ready) { // not the same rounds
		return ""
	}
	const draws = 2000
	random := rand.New(rand.NewPCG(1, 1)) // the same interval each time
	drawn := make([]float64, draws)
	for i := range drawn {
		var a, b tally
		for range t.Ready {
			round := random.IntN(len(t.Ready))
			a.Ready, b.Ready = append(a.Ready, t.Ready[round]), append(b.Ready, base.Ready[round])
		}
		drawn[i] = float64(a.median()) / float64(b.median())
	}
	slices.Sort(drawn)
	return fmt.Sprintf("%.2f (%.2f–%.2f)", float64(t.median())/float64(base.median()), drawn[draws/40], drawn[draws-draws/40])
}

// texts lists the two most frequent errors of each library without a guard.
func (r *report) texts() string {
	var b strings.Builder
	for _, l := range append(r.rows(false), r.rows(true)...) {
		counts, silent := map[string]int{}, 0
		for _, t := range l.all {
			if t.Mode.guarded() {
				continue
			}
			silent += t.Silent
			for text, n := range t.Texts {
				counts[text] += n
			}
		}
		texts := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return 2*(counts[b]-counts[a]) + strings.Compare(a, b) })
		for _, text := range texts[:min(2, len(texts))] {
			fmt.Fprintf(&b, "- %s, %d ×: `%s`\n", l.title(), counts[text], strings.ReplaceAll(text, "`", "'"))
		}
		if silent > 0 {
			fmt.Fprintf(&b, "- %s, %d ×: no error at all, while a table or index was missing\n", l.title(), silent)
		}
	}
	return b.String()
}

func (l row) title() string {
	if l.Special == "" {
		return l.Library
	}
	var sizes []int
	for _, t := range l.all {
		if !slices.Contains(sizes, t.N) {
			sizes = append(sizes, t.N)
		}
	}
	slices.Sort(sizes)
	return fmt.Sprintf("%s, %s, N = %s", l.Library, l.Special, joined(sizes))
}

func joined(sizes []int) string {
	parts := make([]string, len(sizes))
	for i, n := range sizes {
		parts[i] = fmt.Sprint(n)
	}
	return strings.Join(parts, " · ")
}
