package report

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/bench/uncontended"
)

// goal is what the library sets out to reach. What has not been measured is neither met
// nor missed.
type goal struct {
	what, want, got string
	met, measured   bool
}

func (g goal) verdict() string {
	switch {
	case !g.measured:
		return "not measured"
	case g.met:
		return "met"
	default:
		return "**not met**"
	}
}

func (r *Report) goalTable() table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"goal", "at most", "measured", ""})
	for _, g := range r.goals() {
		w.AppendRow(table.Row{g.what, g.want, g.got, g.verdict()})
	}
	return w
}

func (r *Report) goals() []goal {
	goals := []goal{
		r.tripsGoal("Ensure, the schema is not there", uncontended.Cold, uncontended.Ensure, 4),
		r.tripsGoal("Ensure, the schema is there (SkipIfExists)", uncontended.Warm, uncontended.Skip, 1),
		r.ratioGoal("pgx", 1.05),
		r.ratioGoal("lib/pq", 1.10),
		r.handoffGoal(3),
	}
	for _, work := range []float64{20, 1000, 10_000} {
		goals = append(goals, r.onceGoal(work, 1.3), r.turnsGoal(work, 1.1))
	}
	return append(goals, r.pooledGoal(), r.herdGoal(1.1), r.logGoal())
}

const goalN = 100 // processes

// onceGoal is met if a fleet with UpToDate is ready soon after the one that migrates.
func (r *Report) onceGoal(work, most float64) goal {
	g := goal{
		what: fmt.Sprintf("%d processes, a migration of %s, UpToDate: until all are ready, against the one that migrates", goalN, plain(work)),
		want: fmt.Sprintf("%.1f ×", most),
	}
	row, ok := r.fleet(storm.UpToDate, direct, goalN, work, false)
	if !ok {
		return g
	}
	g.measured = true
	g.got, g.met = ratio(row.Ready, row.Winner), row.Ready > 0 && row.Ready <= most*row.Winner
	return g
}

// turnsGoal is met if a fleet that takes turns is ready as soon as under a lock that
// blocks.
func (r *Report) turnsGoal(work, most float64) goal {
	g := goal{
		what: fmt.Sprintf("%d processes, a migration of %s, Serialize: until all are ready, against pg_advisory_lock by hand", goalN, plain(work)),
		want: fmt.Sprintf("%.1f ×", most),
	}
	own, ok := r.fleet(storm.Serialize, direct, goalN, work, false)
	blocking, there := r.fleet(peers.Blocking, direct, goalN, work, false)
	if !ok || !there {
		return g
	}
	g.measured = true
	g.got, g.met = ratio(own.Ready, blocking.Ready), own.Ready > 0 && (blocking.Ready == 0 || own.Ready <= most*blocking.Ready)
	return g
}

func ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return fmt.Sprintf("%s against %s", ms(a), ms(b))
	}
	return fmt.Sprintf("%.3f × (%s, %s)", a/b, ms(a), ms(b))
}

// pooledGoal is met if all of bootlock's are ready through four pooled connections, and
// nobody is who blocks.
func (r *Report) pooledGoal() goal {
	g := goal{what: fmt.Sprintf("%d processes through 4 pooled connections", goalN), want: "all ready, and none of the peers that block"}
	ready, others := []string{}, []string{}
	own, blocking := 0, 0
	for _, row := range r.storm.Rows {
		if row.Connections != four || row.N != goalN || row.Second {
			continue
		}
		switch {
		case storm.Own(row.Way):
			own++
			if row.Ready > 0 {
				ready = append(ready, short(row.Way))
			}
		case strings.HasPrefix(peers.ByName(row.Way).Waits, "blocks"):
			blocking++
			if row.Ready > 0 {
				others = append(others, row.Way)
			}
		}
	}
	g.measured = own > 0 && blocking > 0
	g.met = len(ready) == own && len(others) == 0
	g.got = fmt.Sprintf("ready: %s; of %d peers that block %d", strings.Join(ready, " and "), blocking, len(others))
	return g
}

func (r *Report) herdGoal(most float64) goal {
	g := goal{what: "callers of one process on a pool of 5, WithXactLock", want: fmt.Sprintf("1 connection, %.1f × the same calls by hand one after the other", most)}
	for _, row := range r.herd.Rows {
		if row.Peer == peers.XactLock && !row.UsesPool {
			g.what = fmt.Sprintf("%d %s", r.herd.Callers, g.what)
			g.measured = true
			g.got = fmt.Sprintf("%d, %s", row.Connections, ratio(row.Took, row.Sequential))
			g.met = row.Connections == 1 && row.Took > 0 && row.Took <= most*row.Sequential
		}
	}
	return g
}

func (r *Report) logGoal() goal {
	g := goal{what: "ERROR lines in the server's log while others wait", want: "0"}
	lines := 0
	for _, row := range r.waiting.Rows {
		if row.Own {
			g.measured = true
			lines += row.Errors
		}
	}
	g.got, g.met = fmt.Sprint(lines), lines == 0
	return g
}

// tripsGoal is met if no driver and mode takes more round trips.
func (r *Report) tripsGoal(what, group, task string, most float64) goal {
	g := goal{what: what, want: roundTrips(most)}
	worst := 0.0
	for _, row := range r.uncontended.Rows {
		if row.Group == group && row.Task == task {
			g.measured = true
			worst = max(worst, row.Trips)
		}
	}
	g.got, g.met = fmt.Sprintf("%g, in every mode of the drivers", worst), worst <= most
	return g
}

func roundTrips(n float64) string {
	if n == 1 {
		return "1 round trip"
	}
	return fmt.Sprintf("%g round trips", n)
}

func (r *Report) ratioGoal(mode string, most float64) goal {
	g := goal{what: "WithXactLock against the same statements by hand, " + mode, want: fmt.Sprintf("%.2f ×", most)}
	row, ok := r.find(uncontended.Schema, peers.XactLock, mode)
	control, there := r.find(uncontended.Schema, uncontended.Control, mode)
	if !ok || !there {
		return g
	}
	g.measured, g.met = true, row.Ratio <= most
	g.got = fmt.Sprintf("%.3f × (by hand against itself: %.3f ×)", row.Ratio, control.Ratio)
	return g
}

// waiterCounts are those that the handoff is measured with.
var waiterCounts = []int{2, 8, 32}

// handoffGoal is met if the next holder is inside soon after a lock that blocks would
// have let it in, in the same run.
func (r *Report) handoffGoal(more float64) goal {
	g := goal{what: "handoff, p99", want: fmt.Sprintf("%g ms more than a lock that blocks", more), met: true}
	for _, row := range r.handoff.Rows {
		byHand := r.handoffOf(peers.ByHand, row.Waiters)
		if row.Own && byHand.N > 0 {
			g.measured = true
			g.met = g.met && row.N > 0 && row.P99 <= byHand.P99+more
		}
	}
	var got []string
	for _, peer := range []string{peers.XactLock, peers.Hold, peers.ByHand} {
		var values []string
		for _, n := range waiterCounts {
			values = append(values, ms(r.handoffOf(peer, n).P99))
		}
		got = append(got, short(peer)+" "+strings.Join(values, ", "))
	}
	g.got = "of 2, 8 and 32 waiters: " + strings.Join(got, "; ")
	return g
}

func (r *Report) find(group, task, mode string) (uncontended.Row, bool) {
	for _, row := range r.uncontended.Rows {
		if row.Group == group && row.Task == task && row.Mode == mode {
			return row, true
		}
	}
	return uncontended.Row{}, false
}
