package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/bootlock/bootlock/bench/handoff"
	"github.com/bootlock/bootlock/bench/herd"
	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/report"
	"github.com/bootlock/bootlock/bench/scale"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/bench/uncontended"
	"github.com/bootlock/bootlock/bench/waiting"
)

// parts returns what is measured, in the order in which it is. A short run has the same
// parts, with less in each.
func parts(short bool, results string) []part {
	var all []part
	all = append(all, part{"uncontended", func(ctx context.Context, l *lab.Lab) (any, error) {
		return pick(short, uncontended.Plan{Rounds: 60, Delayed: 2}, uncontended.Plan{Rounds: 1000, Delayed: 20}).Measure(ctx, l)
	}})
	for _, waiters := range pick(short, []int{8}, []int{2, 8, 32}) {
		all = append(all, part{fmt.Sprintf("handoff-%d", waiters), func(ctx context.Context, l *lab.Lab) (any, error) {
			return handoff.Plan{
				Waiters: []int{waiters},
				For:     pick(short, 700*time.Millisecond, 12*time.Second),
				Longer:  pick(short, 3*time.Second, 30*time.Second),
			}.Measure(ctx, l)
		}})
	}
	for _, f := range storms(short) {
		all = append(all, part{f.name, f.measure})
	}
	return append(all,
		part{"herd", func(ctx context.Context, l *lab.Lab) (any, error) {
			return herd.Plan{Callers: pick(short, 50, 1000), Limit: pick(short, time.Second, 8*time.Second)}.Measure(ctx, l)
		}},
		part{"waiting", func(ctx context.Context, l *lab.Lab) (any, error) {
			return waiting.Plan{Waiters: pick(short, 5, 20), For: pick(short, 500*time.Millisecond, 10*time.Second)}.Measure(ctx, l)
		}},
		part{"costs", func(ctx context.Context, l *lab.Lab) (any, error) {
			return scale.MeasureCosts(ctx, l, pick(short, 10, 100))
		}},
		simulated(short, results))
}

// storms are the fleets, by part.
func storms(short bool) []fleets {
	direct, four, twenty, limited := storm.Connections{}, storm.Connections{Pooled: 4}, storm.Connections{Pooled: 20}, storm.Connections{Limited: 20}
	const quick = 20 * time.Millisecond
	all := storm.Ways()
	own := []string{storm.UpToDate, storm.Serialize}
	compared := append(own, peers.Blocking)
	if short {
		return []fleets{
			{"storm-direct", []storm.Plan{{Connections: direct, N: 8, Work: quick, Ways: compared, Rounds: 1, Limit: 5 * time.Second}}},
			{"storm-four", []storm.Plan{{Connections: four, N: 8, Work: quick, Ways: compared, Rounds: 1, Limit: 3 * time.Second}}},
			{"storm-crowd", []storm.Plan{{Connections: four, N: 30, Work: quick, Ways: own, Rounds: 1, Limit: 10 * time.Second, Goroutines: true}}},
		}
	}
	many := without(all, "goose, session locker", "goose, table locker", "cirello.io/pglock")
	long := []string{storm.UpToDate, storm.Serialize, peers.Blocking, peers.Polling, "goose, table locker, every 50 ms", "golang-migrate"}
	crowd := func(c storm.Connections, n int, ways ...string) storm.Plan {
		return storm.Plan{Connections: c, N: n, Work: quick, Ways: ways, Rounds: 1, Limit: time.Minute, Goroutines: true}
	}
	return []fleets{
		{"storm-direct", []storm.Plan{
			{Connections: direct, N: 8, Work: quick, Ways: all, Rounds: 3, Limit: 12 * time.Second},
			{Connections: direct, N: 32, Work: quick, Ways: all, Rounds: 3, Limit: 12 * time.Second},
			{Connections: direct, N: 100, Work: quick, Ways: all, Rounds: 3, Limit: 12 * time.Second},
		}},
		{"storm-large", []storm.Plan{{Connections: direct, N: 250, Work: quick, Ways: many, Rounds: 2, Limit: 20 * time.Second}}},
		{"storm-long", []storm.Plan{
			{Connections: direct, N: 100, Work: time.Second, Ways: many, Rounds: 1, Limit: 20 * time.Second},
			{Connections: direct, N: 100, Work: 10 * time.Second, Ways: long, Rounds: 1, Limit: 25 * time.Second},
		}},
		{"storm-four", []storm.Plan{{Connections: four, N: 100, Work: quick, Ways: all, Rounds: 1, Limit: 12 * time.Second}}},
		{"storm-twenty", []storm.Plan{{Connections: twenty, N: 100, Work: quick, Ways: all, Rounds: 1, Limit: 12 * time.Second}}},
		{"storm-limited", []storm.Plan{{Connections: limited, N: 60, Work: quick, Ways: all, Rounds: 1, Limit: 12 * time.Second}}},
		{"storm-crowd", []storm.Plan{
			crowd(storm.Connections{Pooled: 2}, 40, own...), crowd(four, 200, own...), crowd(four, 1000, own...), crowd(twenty, 1000, own...),
			crowd(limited, 300, storm.UpToDate),
		}},
	}
}

// fleets are a part.
type fleets struct {
	name  string
	plans []storm.Plan
}

func (f fleets) measure(ctx context.Context, l *lab.Lab) (any, error) {
	n := 0
	for _, p := range f.plans {
		if !p.Goroutines {
			n = max(n, p.N)
		}
	}
	workers, err := storm.Worker.Start(n)
	if err != nil {
		return nil, err
	}
	defer workers.Close() //nolint:errcheck // the measurement is over
	all := &storm.Result{}
	for _, p := range f.plans {
		r, err := p.Measure(ctx, l, workers)
		if err != nil {
			return nil, err
		}
		all.Rows = append(all.Rows, r.Rows...)
	}
	return all, nil
}

// simulated is the fleets that were measured, in the model, and fleets that no machine
// here could start. It needs the results of the part costs.
func simulated(short bool, results string) part {
	return part{"scale", func(context.Context, *lab.Lab) (any, error) {
		costs, err := report.Costs(results)
		if err != nil {
			return nil, err
		}
		r := &scale.Result{Large: scale.Large(costs, pick(short, []int{100, 1000}, []int{1000, 10_000, 100_000}))}
		for _, f := range storms(short) {
			for _, p := range f.plans {
				for _, way := range p.Ways {
					if check, ok := simulate(costs, p, way); ok {
						r.Checks = append(r.Checks, check)
					}
				}
			}
		}
		return r, nil
	}}
}

// simulate has one of storm's fleets start in the model, if that knows its way.
func simulate(costs scale.Costs, p storm.Plan, way string) (scale.Check, bool) {
	w := scale.World{Together: true, Cores: runtime.NumCPU(), Connections: lab.Connections, Pooled: p.Connections.Pooled}
	if p.Connections.Limited > 0 {
		w.Connections = p.Connections.Limited
	}
	model, ok := scale.WayOf(way, w.Pooled > 0)
	if !ok {
		return scale.Check{}, false
	}
	return scale.Check{Way: way, Connections: p.Connections.String(), Row: w.Simulate(costs, model, p.N, p.Work, p.Limit)}, true
}

func without(all []string, some ...string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(way string) bool { return slices.Contains(some, way) })
}

func pick[T any](short bool, little, much T) T {
	if short {
		return little
	}
	return much
}
