package report

import (
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/bootlock/bootlock/bench/picture"
	"github.com/bootlock/bootlock/bench/scale"
	"github.com/bootlock/bootlock/bench/storm"
)

func (r *Report) scaleSections() []section {
	if len(r.scale.Large) == 0 {
		return nil
	}
	first := r.scale.Large[0]
	return []section{
		{
			title: "At scale, by simulation",
			text: fmt.Sprintf("No fleet of this size was started: these are figures of a model in virtual time, of a server with %d cores and %d connections, without a pooler and behind one with %d server connections and a core of its own, a network with round trips of %s, and a migration of %s. "+
				"Each process has a machine of its own. A connection and each statement cost what they cost here; the waiting room is that of [how-it-works.md](how-it-works.md#the-waiting-room). Who bursts or polls asks again, 100 ms later, if there is no connection; who blocks gives up.",
				first.World.Cores, first.World.Connections, r.pooledInModel(), first.World.Network, plain(first.Work)),
			tables: []table.Writer{r.largeTable()}, pictures: r.scalePictures(),
		},
		{
			title: "How far the model can be trusted",
			text: "What things cost was measured in CPU time, by the statements that the library sends. " +
				"The second table has the fleets from above, started in the model on the same two cores, beside what was measured; × is the ratio of the two times.",
			tables: []table.Writer{r.costTable(), r.checkTable()},
		},
	}
}

func (r *Report) pooledInModel() int {
	n := 0
	for _, row := range r.scale.Large {
		n = max(n, row.World.Pooled)
	}
	return n
}

func (r *Report) largeTable() table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"", "processes", "all ready", "the winner", "gave up", "connections", "refused", "statements per second", "server busy"})
	for _, row := range r.scale.Large {
		w.AppendRow(table.Row{
			bold(row.Way, storm.Own(row.Way)), fmt.Sprintf("%d, %s", row.N, world(row.World)), simulated(row), ms(row.Winner), row.Failed,
			fmt.Sprintf("%d, %d at once", row.Opened, row.Most), row.Refused, fmt.Sprintf("%.0f", row.Statements), fmt.Sprintf("%.0f %%", 100*row.Load),
		})
	}
	return w
}

func world(w scale.World) string {
	if w.Pooled > 0 {
		return "pooled"
	}
	return "direct"
}

// simulated says until when all were ready, or why not.
func simulated(row scale.Row) string {
	left := row.N - row.Ready - row.Failed
	switch {
	case row.All > 0:
		return ms(row.All)
	case row.Stuck:
		return fmt.Sprintf("never: %d hang", left)
	case left > 0:
		return fmt.Sprintf("%d of %d not ready after %s", left, row.N, plain(row.Limit))
	}
	return "–"
}

func (r *Report) scalePictures() []drawing {
	var all []picture.Series
	for _, way := range scale.Ways() {
		for _, pooled := range []bool{false, true} {
			s := picture.Series{Name: way + map[bool]string{false: ", direct", true: ", pooled"}[pooled], Own: storm.Own(way)}
			for _, row := range r.scale.Large {
				if row.Way == way && row.World.Pooled > 0 == pooled {
					s.X, s.Values = append(s.X, float64(row.N)), append(s.Values, row.All/1000)
				}
			}
			all = append(all, s)
		}
	}
	return []drawing{{"scale", "Simulated time until all processes are ready, over their number", func(t picture.Theme) ([]byte, error) {
		return t.Lines("Simulated: until all processes are ready", "processes", "seconds", all)
	}}}
}

func (r *Report) costTable() table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"CPU time of", "client", "pooler", "server"})
	c := r.costs
	cpu := func(d time.Duration) string { return ms(float64(d.Microseconds()) / 1000) }
	for _, row := range []struct {
		what string
		cost scale.Cost
	}{
		{"a connection to the server", c.Connect},
		{"one that the server refuses", c.Refused},
		{"one to the pooler", c.PoolerConnect},
		{"a short statement", c.Trip},
		{"one of a migration", c.Change},
		{"the statement that takes the lock of Hold", c.Lease},
		{"the statement that blocks", c.Burst},
		{fmt.Sprintf("a look at the sessions, and %.1f µs for each", float64(c.LookEach.Nanoseconds())/1000), scale.Cost{Server: c.Look}},
	} {
		w.AppendRow(table.Row{row.what, cpu(row.cost.Client), cpu(row.cost.Pooler), cpu(row.cost.Server)})
	}
	return w
}

// checkTable has the fleets of the model that were measured as well.
func (r *Report) checkTable() table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"", "processes", "connections", "migration", "measured", "in the model", "×", "winner, measured", "in the model"})
	for _, c := range r.scale.Checks {
		row, ok := r.fleet(c.Way, c.Connections, c.Row.N, c.Row.Work, false)
		if !ok {
			continue
		}
		times := "–"
		if row.Ready > 0 && c.Row.All > 0 {
			times = fmt.Sprintf("%.2f", c.Row.All/row.Ready)
		}
		modelled := simulated(c.Row)
		if c.Row.Failed > 0 {
			modelled = failed(c.Row.Failed, c.Row.N)
		}
		measured := ready(row)
		if row.Failed > 0 {
			measured = failed(row.Failed, row.N*row.Rounds)
		}
		w.AppendRow(table.Row{bold(c.Way, storm.Own(c.Way)), row.N, c.Connections, plain(row.Work), measured, modelled, times, ms(row.Winner), ms(c.Row.Winner)})
	}
	return w
}

func failed(n, of int) string { return fmt.Sprintf("%d of %d failed", n, of) }
