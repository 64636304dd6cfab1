package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A table has a row for each situation and a column for each contestant.
type table struct {
	name   string
	units  string   // of the figures in a cell
	heads  []string // the contestants
	ratios [][2]int // of the first figures of two contestants
	rows   []row
}

type row struct {
	name  string
	most  int        // rounds at most, if not 0
	often int        // turns in a round, if not 0
	runs  []runnable // one for each head; nil leaves the cell empty
}

// A runnable measures a contestant once. Its error ends the whole command; a
// contestant that fails is a figure.
type runnable func(ctx context.Context) (figure, error)

type figure struct {
	values []float64 // one for each of the table's units
	failed int       // processes
	hung   bool      // some of them until the limit; there is no second round
	err    error     // the first
}

// measure prints the rows that are wanted, each as soon as it is measured.
func (t table) measure(ctx context.Context, out io.Writer, only *regexp.Regexp, rounds int) error {
	head := t.header()
	for _, r := range t.rows {
		name := t.name + ": " + r.name
		if !only.MatchString(name) {
			continue
		}
		fmt.Fprintln(os.Stderr, name)
		cells, err := t.cells(ctx, r, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprint(out, head)
		head = ""
		fmt.Fprint(out, t.line(r.name, cells))
	}
	return nil
}

func (t table) header() string {
	heads := append([]string{t.name}, t.heads...)
	for _, r := range t.ratios {
		heads = append(heads, t.heads[r[0]]+" : "+t.heads[r[1]])
	}
	return fmt.Sprintf("\n%s\n\n| %s |\n|%s\n", t.units, strings.Join(heads, " | "), strings.Repeat("---|", len(heads)))
}

// cells lets the contestants take turns, each round beginning with another one.
func (t table) cells(ctx context.Context, r row, rounds int) ([]cell, error) {
	if r.most > 0 {
		rounds = min(rounds, r.most)
	}
	rounds *= max(r.often, 1)
	cells := make([]cell, len(r.runs))
	for round := range rounds {
		for i := range r.runs {
			at := (i + round) % len(r.runs)
			if r.runs[at] == nil || cells[at].hung {
				continue
			}
			f, err := r.runs[at](ctx)
			if err != nil {
				return nil, err
			}
			if f.err != nil {
				fmt.Fprintf(os.Stderr, "\t%s: %d failed: %v\n", t.heads[at], f.failed, f.err)
			}
			cells[at].add(f)
		}
	}
	return cells, nil
}

// A cell collects the figures of one contestant.
type cell struct {
	values [][]float64 // for each unit, those of all rounds
	failed int
	hung   bool
}

func (c *cell) add(f figure) {
	if c.values == nil {
		c.values = make([][]float64, len(f.values))
	}
	for i, v := range f.values {
		c.values[i] = append(c.values[i], v)
	}
	c.failed += f.failed
	c.hung = c.hung || f.hung
}

func (c cell) String() string {
	var texts []string
	for _, values := range c.values {
		texts = append(texts, short(median(values)))
	}
	text := strings.Join(texts, " · ")
	if c.failed > 0 {
		text += fmt.Sprintf(" (%d failed)", c.failed)
	}
	return text
}

func (t table) line(name string, cells []cell) string {
	texts := []string{name}
	for _, c := range cells {
		texts = append(texts, c.String())
	}
	for _, r := range t.ratios {
		texts = append(texts, ratio(cells[r[0]], cells[r[1]]))
	}
	return "| " + strings.Join(texts, " | ") + " |\n"
}

// ratio is empty where there is nothing to compare.
func ratio(a, b cell) string {
	if a.values == nil || b.values == nil || a.failed+b.failed > 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", median(a.values[0])/median(b.values[0]))
}

func median(values []float64) float64 { return quantile(values, 50) }

func quantile(values []float64, percent int) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[len(values)*percent/100]
}

// short has three digits, or all of those before the point.
func short(v float64) string {
	digits := 2
	for limit := 10.0; v >= limit && digits > 0; limit *= 10 {
		digits--
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// A situation is what a row of a table is about.
type situation struct {
	place
	n    int           // processes, or those that wait
	work time.Duration // of a turn or a migration
}

func (s situation) String() string {
	if s.work > 0 {
		return fmt.Sprintf("%v, %d, %v", s.place, s.n, s.work)
	}
	return fmt.Sprintf("%v, %d", s.place, s.n)
}

func situations(places []place, numbers []int, work ...time.Duration) (all []situation) {
	if len(work) == 0 {
		work = []time.Duration{0}
	}
	for _, p := range places {
		for _, n := range numbers {
			for _, d := range work {
				all = append(all, situation{p, n, d})
			}
		}
	}
	return all
}

// A contestant is a column of a table: a lock, say, or a driver.
type contestant[T any] struct {
	name   string
	with   T
	blocks bool // and so cannot work behind a pooler
}

// compare returns t with a column for each contestant and a row for each situation.
func compare[T any](t table, all []contestant[T], in []situation, run func(s situation, with T) runnable) table {
	for _, c := range all {
		t.heads = append(t.heads, c.name)
	}
	for _, s := range in {
		r := row{name: s.String(), most: 3}
		for _, c := range all {
			measure := run(s, c.with)
			if c.blocks {
				measure = s.blocking(measure)
			}
			r.runs = append(r.runs, measure)
		}
		t.rows = append(t.rows, r)
	}
	return t
}
