package demo

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The picture: every process a row, time from left to right, the round without
// the guard above the one with it, on one scale.
const (
	width     = 960.0
	margin    = 28.0
	left      = 92.0 // where time begins
	right     = width - margin
	rowHeight = 15.0
	barHeight = 11.0
	header    = 104.0
	heading   = 46.0 // above the rows of a panel
	axis      = 40.0 // below them
)

var colours = map[state]string{
	working: "#8a97a8",
	waiting: "#f5d88f",
	holding: "#1f6fd6",
	commits: "#9cc3f2",
	ready:   "#57b680",
	failed:  "#d9483b",
}

const css = `
  text { font-family: -apple-system, "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", "DejaVu Sans", sans-serif; fill: #1d2733; }
  .title { font-size: 20px; font-weight: 600; }
  .sub { font-size: 13px; fill: #5b6775; }
  .panel { font-size: 15px; font-weight: 600; }
  .error { font-size: 12px; fill: #b3261a; font-family: ui-monospace, Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace; }
  .row { font-size: 10px; fill: #5b6775; text-anchor: end; }
  .mark { font-size: 9px; font-weight: 700; fill: #ffffff; }
  .tick { font-size: 11px; fill: #5b6775; text-anchor: middle; }
  .key { font-size: 12.5px; }
  .grid { stroke: #dfe4ea; stroke-width: 1; }
  .page { fill: #ffffff; stroke: #dfe4ea; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .sub, .row, .tick { fill: #9198a1; }
    .error { fill: #ff9a92; }
    .grid { stroke: #30363d; }
    .page { fill: #0d1117; stroke: #30363d; }
  }
`

// picture is the canvas with its time scale.
type picture struct {
	out io.Writer
	end time.Duration // the moment at the right edge
}

// text writes an element with text in it. The text may come from a server.
func (p *picture) text(element, text, attributes string) {
	fmt.Fprintf(p.out, "<%s%s>", element, attributes)
	_ = xml.EscapeText(p.out, []byte(text))
	fmt.Fprintf(p.out, "</%s>\n", element)
}

func (p *picture) label(x, y float64, text, class string) {
	p.text("text", text, fmt.Sprintf(` x="%.2f" y="%.2f" class="%s"`, x, y, class))
}

func (p *picture) rect(x, y, w, h, radius float64, paint string) {
	fmt.Fprintf(p.out, `<rect x="%.2f" y="%.2f" width="%.2f" height="%.2f" rx="%.0f" %s/>`+"\n", x, y, w, h, radius, paint)
}

func draw(out io.Writer, version string, without, with round) {
	p := &picture{out, max(without.done(), with.done()) * 21 / 20}
	height := header + p.height(without) + p.height(with) + margin/2
	fmt.Fprintf(out, `<svg width="%[1]g" height="%[2]g" viewBox="0 0 %[1]g %[2]g" role="img" aria-labelledby="title desc" xmlns="http://www.w3.org/2000/svg">`+"\n", width, height)
	defer fmt.Fprintln(out, "</svg>")
	n := len(without.outcomes)
	p.text("title", "The race for a schema, without and with bootlock", ` id="title"`)
	p.text("desc", fmt.Sprintf("%d processes create the same schema at the same moment. Without the guard %d of them fail, with it %d.",
		n, without.failures(), with.failures()), ` id="desc"`)
	p.text("style", css, "")
	p.rect(0.5, 0.5, width-1, height-1, 10, `class="page"`)

	p.label(margin, 40, fmt.Sprintf("%d processes create the same schema at the same moment", len(with.outcomes)), "title")
	p.label(margin, 61, fmt.Sprintf("One row is one process. Half use lib/pq, half pgx. PostgreSQL %s, round %d without the guard and round %d with it.",
		shortVersion(version), without.number, with.number), "sub")
	p.legend(margin, 84)

	y := header
	p.panel(y, without, fmt.Sprintf("Without: %d of %d processes failed", without.failures(), n), without.commonError(), "error")
	y += p.height(without)
	if failures := with.failures(); failures > 0 {
		p.panel(y, with, fmt.Sprintf("With bootlock: %d of %d processes failed", failures, n), with.commonError(), "error")
		return
	}
	p.panel(y, with, fmt.Sprintf("With bootlock: all %d processes ready after %v", n, with.done().Round(time.Millisecond)),
		"one at a time has the lock, from its grant until COMMIT is sent", "sub")
}

func (p *picture) height(r round) float64 {
	return heading + rowHeight*float64(len(r.outcomes)) + axis
}

func (p *picture) x(t time.Duration) float64 {
	return left + (right-left)*float64(t)/float64(p.end)
}

func (p *picture) legend(x, y float64) {
	for _, s := range []state{working, waiting, holding, commits, ready, failed} {
		p.rect(x, y-10, 16, barHeight, 2, fill(s))
		p.label(x+22, y, string(s), "key")
		x += 46 + 6.6*float64(len(s))
	}
}

// panel draws a round, the processes in the order in which they were done.
func (p *picture) panel(y float64, r round, title, below, class string) {
	p.label(margin, y+20, title, "panel")
	p.label(margin, y+37, below, class)
	outcomes := slices.Clone(r.outcomes)
	slices.SortStableFunc(outcomes, func(a, b outcome) int { return int(a.Done - b.Done) })
	y += heading
	p.axis(y, y+rowHeight*float64(len(outcomes)))
	for _, o := range outcomes {
		p.row(y, o)
		y += rowHeight
	}
}

func (p *picture) axis(top, bottom float64) {
	step := niceStep(p.end)
	for t := time.Duration(0); t <= p.end; t += step {
		x := p.x(t)
		fmt.Fprintf(p.out, `<line x1="%[1]g" y1="%[2]g" x2="%[1]g" y2="%[3]g" class="grid"/>`+"\n", x, top-2, bottom+4)
		p.label(x, bottom+17, fmt.Sprint(t), "tick")
	}
}

func (p *picture) row(y float64, o outcome) {
	end, mark := ready, "✓"
	tip := fmt.Sprintf("%s: ready after %v", driverName(o.Driver), o.Done.Round(100*time.Microsecond))
	if o.Err != "" {
		end, mark = failed, "✕"
		tip = fmt.Sprintf("%s: failed after %v: %s", driverName(o.Driver), o.Done.Round(100*time.Microsecond), o.Err)
	}
	fmt.Fprintln(p.out, "<g>")
	defer fmt.Fprintln(p.out, "</g>")
	p.text("title", tip, "")
	p.label(left-8, y+barHeight-1, driverName(o.Driver), "row")
	for _, s := range o.Spans {
		p.bar(y, s)
	}
	p.bar(y, span{end, o.Done, p.end})
	p.label(p.x(o.Done)+5, y+barHeight-2, mark, "mark")
}

func (p *picture) bar(y float64, s span) {
	from, to := p.x(s.From), p.x(s.To)
	p.rect(from, y, max(to-from, 0.6), barHeight, 0, fill(s.State))
}

func fill(s state) string { return fmt.Sprintf(`fill="%s"`, colours[s]) }

func driverName(driver string) string {
	if driver == "postgres" {
		return "lib/pq"
	}
	return driver
}

// commonError is the most frequent error of the round.
func (r round) commonError() string {
	first, _, _ := strings.Cut(r.errors(), "\n")
	return first
}

// niceStep is 1, 2 or 5 times a power of ten, so that about eight fit into end.
func niceStep(end time.Duration) time.Duration {
	step := time.Microsecond
	for i := 0; step*8 < end; i++ {
		step = step * []time.Duration{4, 5, 4}[i%3] / 2
	}
	return step
}
