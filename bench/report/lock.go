package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/bootlock/bootlock/bench/handoff"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/picture"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/bench/uncontended"
)

// short is the name of one of bootlock's own, where that is known to be meant.
func short(name string) string { return strings.TrimPrefix(name, "bootlock, ") }

// ms writes milliseconds with three digits.
func ms(v float64) string {
	switch {
	case v == 0:
		return "–"
	case v >= 10_000:
		return fmt.Sprintf("%.0f s", v/1000)
	case v >= 1000:
		return fmt.Sprintf("%.1f s", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	case v >= 10:
		return fmt.Sprintf("%.1f ms", v)
	default:
		return fmt.Sprintf("%.2f ms", v)
	}
}

func (r *Report) uncontendedSection() section {
	s := section{
		title: "A lock that nobody else wants",
		text: "Lock, nothing, unlock, on connections that are open already. × is the ratio of the medians to BEGIN, lock, COMMIT by hand, measured in turns. " +
			"Round trips are counted on the wire; the last columns are the same over a network with round trips of 1 ms and of 10 ms.",
	}
	rows := r.group(uncontended.Lock)
	if len(rows) == 0 {
		return s
	}
	s.tables = append(s.tables, costs("", rows), r.modes())
	var names []string
	here, far := picture.Series{Name: "on one machine"}, picture.Series{Name: "10 ms away"}
	for _, row := range rows {
		if row.Mode == "pgx" {
			names = append(names, row.Task)
			here.Values, far.Values = append(here.Values, row.P50), append(far.Values, row.At10)
		}
	}
	s.pictures = []drawing{{"uncontended", "Time of an uncontended lock for each peer", func(t picture.Theme) ([]byte, error) {
		return t.Dots("Lock and unlock, nobody else there (pgx)", "milliseconds, the middle", names, []picture.Series{here, far})
	}}}
	return s
}

func costs(title string, rows []uncontended.Row) table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{title, "driver", "p50", "p99", "×", "allocations", "KiB", "round trips", "1 ms away", "10 ms away"})
	for _, row := range rows {
		if row.Mode != "pgx" && row.Mode != "lib/pq" {
			continue
		}
		w.AppendRow(table.Row{
			bold(row.Task, row.Own), row.Mode, ms(row.P50), ms(row.P99), fmt.Sprintf("%.2f", row.Ratio), row.Allocs,
			fmt.Sprintf("%.1f", float64(row.Bytes)/1024), fmt.Sprintf("%g", row.Trips), ms(row.At1), ms(row.At10),
		})
	}
	return w
}

func bold(name string, own bool) string {
	if own {
		return "**" + name + "**"
	}
	return name
}

// modes is the library in every mode of the drivers.
func (r *Report) modes() table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"driver and mode", "WithXactLock and CREATE SCHEMA, ×", "by hand against itself, ×", "Hold", "round trips", "cold Ensure", "round trips", "cold Migrate", "round trips", "warm UpToDate", "round trips"})
	for _, mode := range uncontended.Modes() {
		xact, ok := r.find(uncontended.Schema, peers.XactLock, mode.Name)
		if !ok {
			continue
		}
		control, _ := r.find(uncontended.Schema, uncontended.Control, mode.Name)
		hold, _ := r.find(uncontended.Lock, peers.Hold, mode.Name)
		ensure, _ := r.find(uncontended.Cold, uncontended.Ensure, mode.Name)
		migrate, _ := r.find(uncontended.Cold, uncontended.Migrate, mode.Name)
		look, _ := r.find(uncontended.Warm, uncontended.UpToDate, mode.Name)
		w.AppendRow(table.Row{
			mode.Name, fmt.Sprintf("%.2f", xact.Ratio), fmt.Sprintf("%.2f", control.Ratio), ms(hold.P50), fmt.Sprintf("%g", hold.Trips),
			ms(ensure.P50), fmt.Sprintf("%g", ensure.Trips), ms(migrate.P50), fmt.Sprintf("%g", migrate.Trips), ms(look.P50), fmt.Sprintf("%g", look.Trips),
		})
	}
	return w
}

func (r *Report) startSection() section {
	s := section{
		title: "One process starts",
		text: "Cold: the schema is not there. Warm: everything is. Migrate and UpToDate create one table besides, and look whether it is there. " +
			"× is the ratio to the same CREATE SCHEMA under the same lock by hand.",
	}
	for _, group := range []string{uncontended.Cold, uncontended.Warm} {
		if rows := r.group(group); len(rows) > 0 {
			s.tables = append(s.tables, costs(strings.ToUpper(group[:1])+group[1:], rows))
		}
	}
	return s
}

func (r *Report) group(name string) []uncontended.Row {
	rows := slices.Clone(r.uncontended.Rows)
	return slices.DeleteFunc(rows, func(row uncontended.Row) bool { return row.Group != name })
}

func (r *Report) handoffSection() section {
	s := section{
		title: "From one holder to the next",
		text: "The time from the moment at which a holder lets go to the moment at which the next one is inside. Turns are of random length, and so long that each waiter waits for 1.5 s, about. " +
			"Few handoffs (n) say that the peer made no more in the time it had.",
	}
	if len(r.handoff.Rows) == 0 {
		return s
	}
	var waiters []int
	var names []string
	for _, row := range r.handoff.Rows {
		if !slices.Contains(waiters, row.Waiters) {
			waiters = append(waiters, row.Waiters)
		}
		if !slices.Contains(names, row.Peer) {
			names = append(names, row.Peer)
		}
	}
	slices.Sort(waiters)
	w := table.NewWriter()
	header := table.Row{""}
	var drawn []picture.Series
	for _, n := range waiters {
		header = append(header, fmt.Sprintf("%d waiters: p50", n), "p99", "worst", "n")
		drawn = append(drawn, picture.Series{Name: fmt.Sprintf("p50, %d waiters", n)}, picture.Series{Name: fmt.Sprintf("p99, %d waiters", n)})
	}
	w.AppendHeader(header)
	for _, name := range names {
		line := table.Row{bold(name, peers.ByName(name).Own)}
		for i, n := range waiters {
			row := r.handoffOf(name, n)
			cells := table.Row{ms(row.P50), p99(row), ms(row.Worst), row.N}
			if row.Errors > 0 {
				cells[3] = fmt.Sprintf("%d; %d of %d parties gave up", row.N, row.Errors, n+1)
			}
			line = append(line, cells...)
			drawn[2*i].Values = append(drawn[2*i].Values, row.P50)
			drawn[2*i+1].Values = append(drawn[2*i+1].Values, row.P99)
		}
		w.AppendRow(line)
	}
	s.tables = []table.Writer{w}
	s.pictures = []drawing{{"handoff", "Time from one holder to the next for each peer", func(t picture.Theme) ([]byte, error) {
		return t.Dots("From one holder to the next", "milliseconds", names, drawn)
	}}}
	return s
}

// p99 is left out of fewer than a hundred, of which it would be the worst.
func p99(row handoff.Row) string {
	if row.N < 100 {
		return "–"
	}
	return ms(row.P99)
}

func (r *Report) handoffOf(peer string, waiters int) handoff.Row {
	for _, row := range r.handoff.Rows {
		if row.Peer == peer && row.Waiters == waiters {
			return row
		}
	}
	return handoff.Row{}
}

// better says in which respects something else does better than bootlock. It goes by
// the medians of what the two do for the same purpose.
func (r *Report) better() []string {
	var lines []string
	if own, ok := r.find(uncontended.Lock, peers.Hold, "pgx"); ok {
		var others []rival
		for _, row := range r.group(uncontended.Lock) {
			if row.Mode == "pgx" && !row.Own {
				others = append(others, rival{row.Task, row.P50})
			}
		}
		lines = appendBetter(lines, "A lock that nobody else wants, around work of any kind (Hold)", own.P50, others)
	}
	for _, n := range waiterCounts {
		if own := r.handoffOf(peers.Hold, n); own.N > 0 {
			var others []rival
			for _, row := range r.handoff.Rows {
				if row.Waiters == n && !row.Own && row.N > 0 && row.Errors == 0 {
					others = append(others, rival{row.Peer, row.P50})
				}
			}
			lines = appendBetter(lines, fmt.Sprintf("The handoff to one of %d waiters (Hold)", n), own.P50, others)
		}
	}
	for _, f := range []struct {
		connections string
		n           int
		work        float64
	}{{direct, 100, 20}, {direct, 250, 20}, {direct, 100, 1000}, {four, 100, 20}, {twenty, 100, 20}, {limited, 60, 20}} {
		for _, way := range []string{storm.UpToDate, storm.Serialize} {
			lines = r.fleetBetter(lines, way, f.connections, f.n, f.work)
		}
	}
	return r.waitBetter(r.herdBetter(lines))
}

func (r *Report) fleetBetter(lines []string, way, connections string, n int, work float64) []string {
	own, ok := r.fleet(way, connections, n, work, false)
	if !ok || own.Ready == 0 {
		return lines
	}
	var others []rival
	for _, row := range r.storm.Rows {
		if row.Connections == connections && row.N == n && row.Work == work && !row.Second && !storm.Own(row.Way) && row.Ready > 0 {
			others = append(others, rival{row.Way, row.Ready})
		}
	}
	what := fmt.Sprintf("The start of %d processes (%s, a migration of %s) with %s", n, connections, plain(work), short(way))
	return appendBetter(lines, what, own.Ready, others)
}

func (r *Report) herdBetter(lines []string) []string {
	var own float64
	var others []rival
	for _, row := range r.herd.Rows {
		switch {
		case row.UsesPool:
		case row.Peer == peers.XactLock:
			own = row.Took
		case !row.Own && row.Took > 0:
			others = append(others, rival{row.Peer, row.Took})
		}
	}
	return appendBetter(lines, "The herd in one process, a millisecond under the lock (WithXactLock)", own, others)
}

func (r *Report) waitBetter(lines []string) []string {
	var own float64
	var others []rival
	for _, row := range r.waiting.Rows {
		switch {
		case row.Peer == peers.Hold && row.Connections == direct:
			own = row.Index
		case !row.Own && row.Index > 0:
			others = append(others, rival{row.Peer, row.Index})
		}
	}
	return appendBetter(lines, "CREATE INDEX CONCURRENTLY beside waiters (Hold), who have a snapshot while they block,", own, others)
}

// rival is another way to do something, and the milliseconds that it takes.
type rival struct {
	name string
	took float64
}

func appendBetter(lines []string, what string, own float64, others []rival) []string {
	slices.SortFunc(others, func(a, b rival) int { return cmp.Compare(a.took, b.took) })
	faster := slices.Clone(others)
	faster = slices.DeleteFunc(faster, func(o rival) bool { return o.took >= own })
	if len(faster) == 0 {
		return lines
	}
	var named []string
	for _, o := range faster[:min(3, len(faster))] {
		named = append(named, fmt.Sprintf("%s %s", o.name, ms(o.took)))
	}
	return append(lines, fmt.Sprintf("%s takes %s; %d of %d others take less: %s%s.", what, ms(own), len(faster), len(others),
		strings.Join(named, ", "), map[bool]string{true: " …", false: ""}[len(faster) > 3]))
}
