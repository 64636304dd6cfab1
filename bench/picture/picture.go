// Package picture draws the pictures of the report, for light pages and for dark ones.
package picture

import (
	"bytes"
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Series is one colour of a picture. A value that is NaN is left out.
type Series struct {
	Name   string
	X      []float64 // of lines only
	Values []float64
	Own    bool // drawn thicker
}

// points are those of the values that a logarithmic scale has a place for.
func (s Series) points(of func(at int, v float64) plotter.XY) (dots plotter.XYs) {
	for at, v := range s.Values {
		if v > 0 {
			dots = append(dots, of(at, v))
		}
	}
	return dots
}

// Theme is the colours of a picture.
type Theme struct {
	text, grid color.Color
	series     []color.Color
}

// Light and Dark are for pages of that kind. The background is the page's.
var (
	Light = Theme{text: hex(0x1f2328), grid: hex(0xd1d9e0), series: []color.Color{
		hex(0x0b7a75), hex(0xc2410c), hex(0x4a7fc1), hex(0x8a5cb8), hex(0xb08900), hex(0x6b7280), hex(0xc93c6e), hex(0x4d7c0f),
		hex(0x0e7490), hex(0x92400e), hex(0x1d4ed8), hex(0xa21caf),
	}}
	Dark = Theme{text: hex(0xe6edf3), grid: hex(0x3d444d), series: []color.Color{
		hex(0x2dd4bf), hex(0xfb923c), hex(0x79b8ff), hex(0xc4a1ff), hex(0xe3b341), hex(0x9198a1), hex(0xff8fb3), hex(0xa3d65c),
		hex(0x67d9f0), hex(0xd9a066), hex(0x8aa4ff), hex(0xe58bf0),
	}}
)

func hex(rgb uint32) color.Color {
	return color.RGBA{uint8(rgb >> 16), uint8(rgb >> 8), uint8(rgb), 0xff}
}

const width = 26 * vg.Centimeter

// Dots draws a line for each of rows, the first on top, with a dot for each series on a
// logarithmic scale.
func (t Theme) Dots(title, scale string, rows []string, series []Series) ([]byte, error) {
	p, legend := t.plot(title)
	p.X.Label.Text = scale
	names := make([]string, len(rows))
	for i, row := range rows {
		names[len(rows)-1-i] = row
	}
	p.NominalY(names...)
	logarithmic(&p.X)
	p.Add(t.gridLines())
	for i, s := range series {
		dots := s.points(func(at int, v float64) plotter.XY { return plotter.XY{X: v, Y: float64(len(rows) - 1 - at)} })
		if len(dots) == 0 {
			continue
		}
		scatter, err := plotter.NewScatter(dots)
		if err != nil {
			return nil, err
		}
		scatter.GlyphStyle = draw.GlyphStyle{Color: t.series[i%len(t.series)], Radius: vg.Points(4), Shape: glyph(i)}
		p.Add(scatter)
		legend.Add(s.Name, scatter)
	}
	p.Y.Padding = vg.Points(8)
	return svg(p, legend, width, vg.Length(len(rows))*0.8*vg.Centimeter+3.6*vg.Centimeter)
}

// Lines draws a line for each series, on logarithmic scales.
func (t Theme) Lines(title, xScale, yScale string, series []Series) ([]byte, error) {
	p, legend := t.plot(title)
	p.X.Label.Text, p.Y.Label.Text = xScale, yScale
	logarithmic(&p.X)
	logarithmic(&p.Y)
	p.Add(t.gridLines())
	for i, s := range series {
		dots := s.points(func(at int, v float64) plotter.XY { return plotter.XY{X: s.X[at], Y: v} })
		if len(dots) == 0 {
			continue
		}
		line, scatter, err := plotter.NewLinePoints(dots)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = t.series[i%len(t.series)], vg.Points(1.2)
		if s.Own {
			line.Width = vg.Points(3)
		}
		scatter.GlyphStyle = draw.GlyphStyle{Color: line.Color, Radius: vg.Points(3.5), Shape: glyph(i)}
		p.Add(line, scatter)
		legend.Add(s.Name, line, scatter)
	}
	return svg(p, legend, width, 13*vg.Centimeter)
}

func glyph(i int) draw.GlyphDrawer {
	shapes := []draw.GlyphDrawer{draw.CircleGlyph{}, draw.TriangleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}, draw.RingGlyph{}, draw.SquareGlyph{}}
	return shapes[i%len(shapes)]
}

// plot has its legend beside it, where it covers nothing.
func (t Theme) plot(title string) (*plot.Plot, *plot.Legend) {
	p := plot.New()
	legend := plot.NewLegend()
	p.BackgroundColor = color.Transparent
	p.Title.Text = title
	p.Title.Padding = vg.Points(8)
	for _, style := range []*draw.TextStyle{
		&p.Title.TextStyle, &legend.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label,
	} {
		style.Color = t.text
		style.Font.Variant = "Sans"
		style.Font.Size = vg.Points(10)
	}
	p.Title.TextStyle.Font.Size = vg.Points(13)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color = t.grid
		axis.Tick.Color = t.grid
	}
	legend.Top, legend.Left = true, true
	legend.Padding = vg.Points(3)
	return p, &legend
}

func (t Theme) gridLines() *plotter.Grid {
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = t.grid, t.grid
	return g
}

// logarithmic gives an axis a tick at each power of ten, and at 2 and 5 times that if
// there is room for it.
func logarithmic(axis *plot.Axis) {
	axis.Scale = plot.LogScale{}
	axis.Tick.Marker = plot.TickerFunc(func(least, most float64) []plot.Tick {
		var ticks []plot.Tick
		wide := most/least > 2000
		for power := math.Pow(10, math.Floor(math.Log10(least))); power <= most; power *= 10 {
			for _, n := range []float64{1, 2, 5} {
				if v := n * power; v >= least*0.999 && v <= most*1.001 {
					tick := plot.Tick{Value: v, Label: label(v)}
					if wide && n > 1 {
						tick.Label = ""
					}
					ticks = append(ticks, tick)
				}
			}
		}
		return ticks
	})
}

// label writes a number as people do.
func label(v float64) string { return strconv.FormatFloat(math.Round(v*1e6)/1e6, 'f', -1, 64) }

// Margins of a picture. The texts are measured in another font than pages have.
const (
	left        = 0.8 * vg.Centimeter
	legendWidth = 8.5 * vg.Centimeter
)

func svg(p *plot.Plot, legend *plot.Legend, w, h vg.Length) ([]byte, error) {
	canvas := vgsvg.New(w, h)
	all := draw.New(canvas)
	p.Draw(draw.Crop(all, left, -legendWidth, 0, 0))
	legend.Draw(draw.Crop(all, w-legendWidth+vg.Points(12), 0, 0, -vg.Centimeter))
	var b bytes.Buffer
	_, err := canvas.WriteTo(&b)
	return b.Bytes(), err
}
