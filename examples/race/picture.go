package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"text/template"
)

//go:embed picture.svg.tmpl
var pictureText string

var pictureTemplate = template.Must(template.New("picture").Parse(pictureText))

// Sizes of the picture.
const (
	topHeight = 132 // above the first row
	rowHeight = 28
	barStart  = 600
	barUnit   = 200 // of the ratio 1
)

// picture is docs/libraries.svg: who fails, and how long it takes. It is a table
// with colours rather than bars of shares, since most shares are all or nothing.
func (r *report) picture() ([]byte, error) {
	n := slices.Max(r.sizes())
	rows := slices.DeleteFunc(r.rows(false), func(l row) bool { return l.find(readme, n) == nil }) // second drivers
	p := picture{N: n, Libraries: len(rows), One: barStart + barUnit, Bottom: topHeight + rowHeight*len(rows)}
	for i, l := range rows {
		line := pictureRow{Y: topHeight + i*rowHeight, Name: fmt.Sprintf("%s, %s", l.Library, l.driverName())}
		for j, m := range []mode{readme, schemaFirst, serialize} {
			t := l.find(m, n)
			if t == nil {
				continue
			}
			line.Cells = append(line.Cells, pictureCell{X: 215 + j*120, Bad: t.Failed > 0, Text: fmt.Sprintf("%d of %d", t.Failed, t.Rounds)})
			switch {
			case t.Failed == 0:
			case m == readme:
				p.Lose++
			case m == schemaFirst:
				p.LoseWithSchema++
			default:
				p.LoseGuarded++
			}
		}
		base := l.find(blocking, n)
		for j, m := range []mode{serialize, once} {
			t := l.find(m, n)
			if base == nil || t == nil || base.median() == 0 || t.median() == 0 { // not run, or never without a failure
				continue
			}
			ratio := float64(t.median()) / float64(base.median())
			width := int(ratio*barUnit + 0.5)
			line.Bars = append(line.Bars, pictureBar{
				Y: 4 + 10*j, Width: width, End: barStart + width + 5, Once: m == once, Text: fmt.Sprintf("%.2f", ratio),
			})
		}
		p.Rows = append(p.Rows, line)
	}
	var b bytes.Buffer
	err := pictureTemplate.Execute(&b, p)
	return b.Bytes(), err
}

type picture struct {
	N, Libraries, Lose, LoseWithSchema, LoseGuarded int

	One, Bottom int // where the line of the ratio 1 stands, and where it ends
	Rows        []pictureRow
}

type pictureRow struct {
	Y     int
	Name  string
	Cells []pictureCell
	Bars  []pictureBar
}

type pictureCell struct {
	X    int
	Bad  bool
	Text string
}

// Center is where the text of a cell stands.
func (c pictureCell) Center() int { return c.X + 56 }

type pictureBar struct {
	Y, Width, End int
	Once          bool
	Text          string
}

// Height is that of the whole picture.
func (p picture) Height() int { return p.Bottom + 24 }

// None is a number in a sentence, in which 0 is "none".
func (picture) None(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}
