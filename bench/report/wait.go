package report

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
)

func (r *Report) herdSection() section {
	s := section{
		title: "A herd in one process",
		text: fmt.Sprintf("%d callers of one process want the lock at the same moment, on a pool of %d connections. Under the lock each pauses for a millisecond, or sends one statement through the pool. "+
			"× is the ratio to the same calls by hand, one after the other.", r.herd.Callers, r.herd.Pool),
	}
	if len(r.herd.Rows) == 0 {
		return s
	}
	for _, usesPool := range []bool{false, true} {
		w := table.NewWriter()
		w.AppendHeader(table.Row{map[bool]string{false: "1 ms under the lock", true: "a statement under the lock"}[usesPool], "all done", "×", "connections", "not done", "failed with"})
		for _, row := range r.herd.Rows {
			if row.UsesPool != usesPool {
				continue
			}
			took, times := ms(row.Took), fmt.Sprintf("%.2f", row.Took/row.Sequential)
			if row.Took == 0 {
				took, times = "not after "+plain(row.Limit), ""
			}
			w.AppendRow(table.Row{bold(row.Peer, row.Own), took, times, row.Connections, r.herd.Callers - row.Done, row.Error})
		}
		s.tables = append(s.tables, w)
	}
	return s
}

func (r *Report) waitingSection() section {
	s := section{
		title: "While they wait",
		text: fmt.Sprintf("%d wait behind one holder; from their second second on, the server is watched for %s. A waiter with a snapshot (`backend_xmin`) keeps CREATE INDEX CONCURRENTLY and vacuum waiting: "+
			"the table has the share of looks at which any had one, and how long one was kept. The holder creates an index meanwhile.", r.waiting.Waiters, plain(r.waiting.For)),
	}
	if len(r.waiting.Rows) == 0 {
		return s
	}
	w := table.NewWriter()
	w.AppendHeader(table.Row{"", "connections", "statements per second and waiter", "CREATE INDEX CONCURRENTLY", "looks with a snapshot", "oldest snapshot", "sessions", "ERROR lines", "gave up"})
	for _, row := range r.waiting.Rows {
		index := ms(row.Index)
		if row.Index == 0 {
			index = "hangs until the holder gives up"
		}
		w.AppendRow(table.Row{
			bold(row.Peer, row.Own), row.Connections, fmt.Sprintf("%.1f", row.Statements), index,
			fmt.Sprintf("%.0f %%", 100*row.Xmin), ms(row.Oldest), row.Sessions, row.Errors, row.GaveUp,
		})
	}
	s.tables = []table.Writer{w}
	return s
}
