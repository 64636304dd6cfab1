// Package stats has the few figures that samples of time are told by.
package stats

import (
	"math"
	"slices"
	"time"
)

// Quantiles says how long something took, in milliseconds.
type Quantiles struct {
	N     int     `json:"n"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"` // the worst, of fewer than a hundred
	Worst float64 `json:"worst_ms"`
}

// Of returns the quantiles of samples, which it sorts. Those of nothing are zero.
func Of(samples []time.Duration) Quantiles {
	if len(samples) == 0 {
		return Quantiles{}
	}
	slices.Sort(samples)
	return Quantiles{
		N:     len(samples),
		P50:   Milliseconds(samples[len(samples)/2]),
		P99:   Milliseconds(samples[len(samples)*99/100]),
		Worst: Milliseconds(samples[len(samples)-1]),
	}
}

// Median returns the middle of samples, which it sorts; zero if there are none.
func Median(samples []time.Duration) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	slices.Sort(samples)
	return samples[len(samples)/2]
}

// Milliseconds is d, rounded to microseconds, which is more than is known of it.
func Milliseconds(d time.Duration) float64 { return math.Round(float64(d.Nanoseconds())/1e3) / 1e3 }
