package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/bootlock/bootlock/bench/picture"
	"github.com/bootlock/bootlock/bench/storm"
)

// Names of connections in the results.
var (
	direct  = storm.Connections{}.String()
	four    = storm.Connections{Pooled: 4}.String()
	twenty  = storm.Connections{Pooled: 20}.String()
	limited = storm.Connections{Limited: 20}.String()
)

// plain writes a round number of milliseconds.
func plain(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%g s", v/1000)
	}
	return fmt.Sprintf("%g ms", v)
}

func (r *Report) fleet(way, connections string, n int, work float64, second bool) (storm.Row, bool) {
	for _, row := range r.storm.Rows {
		if row.Way == way && row.Connections == connections && row.N == n && row.Work == work && row.Second == second {
			return row, true
		}
	}
	return storm.Row{}, false
}

func (r *Report) stormSections() []section {
	sections := []section{
		{
			title: "Many processes start at once",
			text: "Each is a process of its own. All begin at the same moment, on a fresh database: lock, create the schema, migrate if nobody has (20 short statements, 20 ms in all), unlock. " +
				"The second start is the same fleet again, with nothing to do. Connections are those opened, and the most at one time; statements are the server's count.",
			tables: r.stormTables(direct, 20), pictures: r.stormPictures(),
		},
		{
			title:  "A migration that takes longer",
			text:   "The same with a migration of 1 s and of 10 s. The winner is the process that migrated.",
			tables: slices.Concat(r.stormTables(direct, 1000), r.stormTables(direct, 10_000)),
		},
		{
			title: "Fewer connections than processes",
			text: "The same fleet through PgBouncer in transaction mode with 4 and with 20 server connections, and as a role that may have 20 connections. " +
				"A session lock behind a pooler is worth nothing: it belongs to a server connection that others use, too.",
			tables: slices.Concat(r.stormTables(four, 20), r.stormTables(twenty, 20), r.stormTables(limited, 20)),
		},
	}
	return sections
}

// stormTables is one table for each number of processes.
func (r *Report) stormTables(connections string, work float64) []table.Writer {
	var sizes []int
	for _, row := range r.storm.Rows {
		if row.Connections == connections && row.Work == work && !slices.Contains(sizes, row.N) {
			sizes = append(sizes, row.N)
		}
	}
	var tables []table.Writer
	for _, n := range sizes {
		tables = append(tables, r.stormTable(connections, work, n))
	}
	return tables
}

func (r *Report) stormTable(connections string, work float64, n int) table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{
		fmt.Sprintf("%d processes, %s, %s", n, connections, plain(work)),
		"all ready", "the winner", "failed", "connections", "statements", "second start", "connections", "statements", "failed with",
	})
	for _, way := range storm.Ways() {
		row, ok := r.fleet(way, connections, n, work, false)
		if !ok {
			continue
		}
		line := table.Row{
			bold(way, storm.Own(way)), ready(row), ms(row.Winner), failures(row),
			fmt.Sprintf("%d, %d at once", row.Opened, row.Most), row.Statements, "–", "", "", withoutAddress(row.Error),
		}
		if second, ok := r.fleet(way, connections, n, work, true); ok {
			line[6], line[7], line[8] = ready(second), fmt.Sprintf("%d, %d at once", second.Opened, second.Most), second.Statements
		}
		w.AppendRow(line)
	}
	return w
}

func ready(row storm.Row) string {
	if row.Ready > 0 {
		return ms(row.Ready)
	}
	if row.Hung > 0 {
		return fmt.Sprintf("%d of %d not ready after %s", row.Hung, row.N*row.Rounds, plain(row.Limit))
	}
	return "–"
}

// withoutAddress is an error without the names and ports that are other ones each time.
func withoutAddress(text string) string {
	if before, _, ok := strings.Cut(text, "failed to connect to"); ok {
		return before + "failed to connect"
	}
	return text
}

func failures(row storm.Row) string {
	return fmt.Sprintf("%d of %d", row.Failed, row.N*row.Rounds)
}

// stormPictures shows the time until all are ready over the number of processes.
func (r *Report) stormPictures() []drawing {
	if len(r.stormTables(direct, 20)) == 0 {
		return nil
	}
	var all []picture.Series
	for _, way := range storm.Ways() {
		s := picture.Series{Name: way, Own: storm.Own(way)}
		for _, n := range []int{8, 32, 100, 250} {
			if row, ok := r.fleet(way, direct, n, 20, false); ok {
				s.X, s.Values = append(s.X, float64(n)), append(s.Values, row.Ready/1000)
			}
		}
		all = append(all, s)
	}
	return []drawing{{"storm", "Time until all processes are ready, over their number", func(t picture.Theme) ([]byte, error) {
		return t.Lines("Until all processes are ready, a migration of 20 ms", "processes", "seconds", all)
	}}}
}
