package stats

import (
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	t.Parallel()
	samples := make([]time.Duration, 200)
	for i := range samples {
		samples[i] = time.Duration(200-i) * time.Millisecond
	}
	if got, want := Of(samples), (Quantiles{N: 200, P50: 101, P99: 199, Worst: 200}); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
	if got, want := Of([]time.Duration{7 * time.Millisecond}), (Quantiles{N: 1, P50: 7, P99: 7, Worst: 7}); got != want {
		t.Errorf("of one: got %+v; want %+v", got, want)
	}
	if got := Of(nil); got != (Quantiles{}) || Median(nil) != 0 {
		t.Errorf("of nothing: got %+v and %v", got, Median(nil))
	}
}
