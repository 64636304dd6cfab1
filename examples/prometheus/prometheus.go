// Package prometheus counts how long starts take and how long they wait, as
// histograms. It is an example to copy, since the guard itself depends on
// nothing.
package prometheus

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// Trace returns hooks that observe the duration of each step in reg. The label
// "for" tells the schema's lock, which is held for milliseconds, from that of
// migrate, which may be held for minutes.
func Trace(reg prometheus.Registerer) *locktrace.Trace {
	steps := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "bootlock_step_seconds",
		Help:    "Duration of each step; that of lock includes the wait for it.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 10), // 1 ms to 4 min
	}, []string{"step", "for", "result"})
	waiting := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bootlock_waited_seconds",
		Help: "How long the wait for a lock that is under way has lasted; 0 if none is.",
	}, []string{"name", "for"})
	reg.MustRegister(steps, waiting)
	return &locktrace.Trace{
		Done: func(_ context.Context, e locktrace.Event) {
			result := "ok"
			if e.Err != nil {
				result = "error"
			}
			steps.WithLabelValues(string(e.Step), string(e.For), result).Observe(e.Duration.Seconds())
			if e.Step == locktrace.Lock {
				waiting.WithLabelValues(e.Name, string(e.For)).Set(0)
			}
		},
		Waiting: func(_ context.Context, w locktrace.Wait) {
			waiting.WithLabelValues(w.Name, string(w.For)).Set(w.Waited.Seconds())
		},
	}
}
