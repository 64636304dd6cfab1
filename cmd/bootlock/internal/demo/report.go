package demo

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

func (s *side) all() (r round) {
	for _, one := range s.rounds {
		r.outcomes = append(r.outcomes, one.outcomes...)
	}
	return r
}

func (s *side) failures() int  { return s.all().failures() }
func (s *side) processes() int { return len(s.all().outcomes) }

func (s *side) failedRounds() (n int) {
	for _, r := range s.rounds {
		if r.failures() > 0 {
			n++
		}
	}
	return n
}

func (r round) failures() (n int) {
	for _, o := range r.outcomes {
		if o.Err != "" {
			n++
		}
	}
	return n
}

// done is when the last process was ready, or had failed.
func (r round) done() time.Duration {
	var last time.Duration
	for _, o := range r.outcomes {
		last = max(last, o.Done)
	}
	return last
}

// worst is the round with the most failures; of several the one that took the
// median time.
func (s *side) worst() round {
	rounds := slices.Clone(s.rounds)
	slices.SortFunc(rounds, func(a, b round) int { return b.failures() - a.failures() })
	most := rounds[0].failures()
	rounds = slices.DeleteFunc(rounds, func(r round) bool { return r.failures() < most })
	slices.SortFunc(rounds, func(a, b round) int { return int(a.done() - b.done()) })
	return rounds[len(rounds)/2]
}

// times are the median and the longest time until all processes of a round
// were done.
func (s *side) times() (median, longest time.Duration) {
	var all []time.Duration
	for _, r := range s.rounds {
		all = append(all, r.done())
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}

// errors are the error texts with how often each came, the most frequent first.
func (r round) errors() string {
	count := map[string]int{}
	for _, o := range r.outcomes {
		if o.Err != "" {
			count[plain(o.Err)]++
		}
	}
	texts := slices.SortedFunc(maps.Keys(count), func(a, b string) int { return cmp.Or(count[b]-count[a], strings.Compare(a, b)) })
	for i, text := range texts {
		texts[i] = fmt.Sprintf("%d × %s", count[text], text)
	}
	return cmp.Or(strings.Join(texts, "\n"), "none")
}

// plain makes one text of what lib/pq and pgx say about the same error.
func plain(text string) string {
	if i := strings.Index(text, "duplicate key"); i >= 0 {
		text = text[i:]
	}
	return strings.NewReplacer("ERROR: ", "", "pq: ", "", " (SQLSTATE ", " (").Replace(text)
}

func report(d *demo, sides ...*side) string {
	t := table.NewWriter()
	t.SetStyle(table.StyleRounded)
	t.Style().Format.Header = text.FormatDefault
	t.SetTitle("%d processes create one schema at the same moment, PostgreSQL %s", d.Processes, shortVersion(d.server.version))
	t.AppendHeader(table.Row{"", sides[0].name, sides[1].name})
	row := func(name string, value func(*side) any) {
		t.AppendRow(table.Row{name, value(sides[0]), value(sides[1])})
	}
	row("rounds", func(s *side) any { return len(s.rounds) })
	row("  with a failure", func(s *side) any { return s.failedRounds() })
	row("processes", func(s *side) any { return s.processes() })
	row("  failed", func(s *side) any { return s.failures() })
	row("until all were done, median", func(s *side) any { median, _ := s.times(); return median.Round(time.Millisecond) })
	row("  longest", func(s *side) any { _, longest := s.times(); return longest.Round(time.Millisecond) })
	t.AppendSeparator()
	row("errors", func(s *side) any { return wrap(s.all().errors(), 64) })
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignLeft}, {Number: 3, Align: text.AlignLeft}})
	return t.Render()
}

// wrap breaks each line of its own at words.
func wrap(lines string, width int) string {
	var wrapped []string
	for line := range strings.SplitSeq(lines, "\n") {
		wrapped = append(wrapped, text.WrapSoft(line, width))
	}
	return strings.Join(wrapped, "\n")
}

// shortVersion leaves out who has built the server.
func shortVersion(version string) string {
	short, _, _ := strings.Cut(version, " ")
	return short
}

// verdict says in words what the rounds have shown, and whether that is what
// they should have.
func verdict(without, with *side) (string, bool) {
	switch {
	case with.failures() > 0:
		return fmt.Sprintf("FAILED: %d of %d processes failed under the guard.", with.failures(), with.processes()), false
	case without.failures() == 0:
		return fmt.Sprintf("Proved nothing: without the guard, not one of %d processes failed. Try more rounds or more processes: --rounds, --processes.", without.processes()), false
	}
	return fmt.Sprintf("Without the guard %d of %d processes failed, with it none of %d.", without.failures(), without.processes(), with.processes()), true
}
