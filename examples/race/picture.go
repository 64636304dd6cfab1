package main

import (
	"fmt"
	"slices"

	"github.com/go-analyze/charts"
)

const (
	pictureWidth = 860
	panelHeight  = 620
)

var (
	red    = charts.ColorRGB(0xd0, 0x45, 0x3f)
	orange = charts.ColorRGB(0xe9, 0xa2, 0x3b)
	blue   = charts.ColorRGB(0x3f, 0x7c, 0xc4)
	green  = charts.ColorRGB(0x3f, 0x9c, 0x5a)
)

// panel is one of the picture's two charts: a group of bars, in per cent, for
// each library.
type panel struct {
	title  string
	modes  []mode
	colors []charts.Color
	figure func(l row, t *tally) float64
}

// picture is docs/libraries.svg: who fails, and how long it takes.
func (r *report) picture() ([]byte, error) {
	n := slices.Max(r.sizes())
	rows := slices.DeleteFunc(r.rows(false), func(l row) bool { return l.find(readme, n) == nil }) // second drivers
	slices.Reverse(rows)                                                                           // they are drawn from the bottom up
	painter := charts.NewPainter(charts.PainterOptions{
		OutputFormat: charts.ChartOutputSVG, Width: pictureWidth, Height: 2 * panelHeight,
	})
	for i, p := range []panel{
		{
			title:  fmt.Sprintf("Starts of %d processes in which one or more failed", n),
			modes:  []mode{readme, schemaFirst, serialize},
			colors: []charts.Color{red, orange, blue},
			figure: func(_ row, t *tally) float64 { return float64(t.Failed) / float64(t.Rounds) },
		},
		{
			title:  fmt.Sprintf("Time until all %d are ready, against the same under %s", n, blocking),
			modes:  []mode{serialize, once},
			colors: []charts.Color{blue, green},
			figure: func(l row, t *tally) float64 {
				base := l.find(blocking, n)
				if base == nil || base.median() == 0 || t.median() == 0 { // not run, or never without a failure
					return charts.GetNullValue()
				}
				return float64(t.median()) / float64(base.median())
			},
		},
	} {
		box := charts.NewBox(0, i*panelHeight, pictureWidth, (i+1)*panelHeight)
		if err := painter.Child(charts.PainterBoxOption(box)).BarChart(p.option(rows, n)); err != nil {
			return nil, err
		}
	}
	return painter.Bytes()
}

func (p panel) option(rows []row, n int) charts.BarChartOption {
	small := charts.NewFontStyleWithSize(8)
	percent := func(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) }
	values := make([][]float64, len(p.modes))
	for i, m := range p.modes {
		for _, l := range rows {
			value := charts.GetNullValue()
			if t := l.find(m, n); t != nil {
				value = p.figure(l, t)
			}
			values[i] = append(values[i], value)
		}
	}
	option := charts.NewBarChartOptionWithSeries(charts.NewSeriesListBar(values, charts.BarSeriesOption{
		Label: charts.SeriesLabel{Show: charts.Ptr(true), ValueFormatter: percent, FontStyle: small},
	}))
	option.Theme = charts.GetTheme(charts.ThemeLight).WithSeriesColors(p.colors)
	option.Horizontal = true
	option.Padding = charts.NewBoxEqual(16)
	option.Padding.Right = 56 // for the labels
	option.Title.Text = p.title
	option.Legend.Offset = charts.OffsetStr{Left: "right", Top: "28"}
	for _, m := range p.modes {
		option.Legend.SeriesNames = append(option.Legend.SeriesNames, string(m))
	}
	for _, l := range rows {
		option.CategoryAxis.Labels = append(option.CategoryAxis.Labels, fmt.Sprintf("%s, %s", l.Library, l.driverName()))
	}
	option.CategoryAxis.LabelFontStyle = small
	option.ValueAxis = []charts.ValueAxisOption{{
		Min: charts.Ptr(0.0), Max: charts.Ptr(1.2), Unit: 0.2, RangeValuePaddingScale: charts.Ptr(0.0),
		LabelFontStyle: small, ValueFormatter: percent,
	}}
	return option
}
