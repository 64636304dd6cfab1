package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	svg "github.com/ajstarks/svgo/float"
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
`

func drawFile(path, version string, without, with round) error {
	var b bytes.Buffer
	draw(&b, version, without, with)
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// picture is the canvas with its time scale.
type picture struct {
	*svg.SVG
	end time.Duration // the moment at the right edge
}

func draw(out io.Writer, version string, without, with round) {
	p := &picture{svg.New(out), max(without.done(), with.done()) * 21 / 20}
	height := header + p.height(without) + p.height(with) + margin/2
	p.Startview(width, height, 0, 0, width, height)
	defer p.End()
	p.Title("The race for a schema, without and with bootlock")
	p.Style("text/css", css)
	p.Roundrect(0.5, 0.5, width-1, height-1, 10, 10, `fill="#ffffff" stroke="#dfe4ea"`)

	p.Text(margin, 40, fmt.Sprintf("%d processes create the same schema at the same moment", len(with.outcomes)), `class="title"`)
	p.Text(margin, 61, fmt.Sprintf("One row is one process. Half use lib/pq, half pgx. PostgreSQL %s, round %d without the guard and round %d with it.",
		shortVersion(version), without.number, with.number), `class="sub"`)
	p.legend(margin, 84)

	n := len(without.outcomes)
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
		p.Roundrect(x, y-10, 16, barHeight, 2, 2, fill(s))
		p.Text(x+22, y, string(s), `class="key"`)
		x += 46 + 6.6*float64(len(s))
	}
}

// panel draws a round, the processes in the order in which they were done.
func (p *picture) panel(y float64, r round, title, below, class string) {
	p.Text(margin, y+20, title, `class="panel"`)
	p.Text(margin, y+37, below, fmt.Sprintf(`class="%s"`, class))
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
		p.Line(x, top-2, x, bottom+4, `class="grid"`)
		p.Text(x, bottom+17, fmt.Sprint(t), `class="tick"`)
	}
}

func (p *picture) row(y float64, o outcome) {
	end, mark := ready, "✓"
	tip := fmt.Sprintf("%s: ready after %v", driverName(o.Driver), o.Done.Round(100*time.Microsecond))
	if o.Err != "" {
		end, mark = failed, "✕"
		tip = fmt.Sprintf("%s: failed after %v: %s", driverName(o.Driver), o.Done.Round(100*time.Microsecond), o.Err)
	}
	p.Group()
	defer p.Gend()
	p.Title(tip)
	p.Text(left-8, y+barHeight-1, driverName(o.Driver), `class="row"`)
	for _, s := range o.Spans {
		p.bar(y, s)
	}
	p.bar(y, span{end, o.Done, p.end})
	p.Text(p.x(o.Done)+5, y+barHeight-2, mark, `class="mark"`)
}

func (p *picture) bar(y float64, s span) {
	from, to := p.x(s.From), p.x(s.To)
	p.Rect(from, y, max(to-from, 0.6), barHeight, fill(s.State))
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
	count := map[string]int{}
	most := ""
	for _, o := range r.outcomes {
		if o.Err == "" {
			continue
		}
		text := plain(o.Err)
		count[text]++
		if count[text] > count[most] {
			most = text
		}
	}
	if most == "" {
		return ""
	}
	return fmt.Sprintf("%d × %s", count[most], most)
}

// niceStep is 1, 2 or 5 times a power of ten, so that about eight fit into end.
func niceStep(end time.Duration) time.Duration {
	raw := float64(end) / 8
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, factor := range []float64{1, 2, 5} {
		if raw <= factor*power {
			return time.Duration(factor * power)
		}
	}
	return time.Duration(10 * power)
}
