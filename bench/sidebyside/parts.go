package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bootlock/bootlock/bench/handoff"
	"github.com/bootlock/bootlock/bench/herd"
	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/bench/uncontended"
	"github.com/bootlock/bootlock/bench/waiting"
)

// parts returns what is measured, in the order in which it is. A short run has the same
// parts, with less in each.
func parts(short bool) []part {
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
	all = append(all, storms(short)...)
	return append(all,
		part{"herd", func(ctx context.Context, l *lab.Lab) (any, error) {
			return herd.Plan{Callers: pick(short, 50, 1000), Limit: pick(short, time.Second, 8*time.Second)}.Measure(ctx, l)
		}},
		part{"waiting", func(ctx context.Context, l *lab.Lab) (any, error) {
			return waiting.Plan{Waiters: pick(short, 5, 20), For: pick(short, 500*time.Millisecond, 10*time.Second)}.Measure(ctx, l)
		}})
}

// storms are those of the fleets.
func storms(short bool) []part {
	direct, four, twenty, limited := storm.Connections{}, storm.Connections{Pooled: 4}, storm.Connections{Pooled: 20}, storm.Connections{Limited: 20}
	const quick = 20 * time.Millisecond
	all := storm.Ways()
	compared := []string{storm.UpToDate, storm.Serialize, peers.Blocking}
	if short {
		return []part{
			fleets("storm-direct", storm.Plan{Connections: direct, N: 8, Work: quick, Ways: compared, Rounds: 1, Limit: 5 * time.Second}),
			fleets("storm-four", storm.Plan{Connections: four, N: 8, Work: quick, Ways: compared, Rounds: 1, Limit: 3 * time.Second}),
		}
	}
	many := without(all, "goose, session locker", "goose, table locker", "cirello.io/pglock")
	long := []string{storm.UpToDate, storm.Serialize, peers.Blocking, "polling every 100 ms by hand", "goose, table locker, every 50 ms", "golang-migrate"}
	return []part{
		fleets("storm-direct",
			storm.Plan{Connections: direct, N: 8, Work: quick, Ways: all, Rounds: 3, Limit: 12 * time.Second},
			storm.Plan{Connections: direct, N: 32, Work: quick, Ways: all, Rounds: 3, Limit: 12 * time.Second},
			storm.Plan{Connections: direct, N: 100, Work: quick, Ways: all, Rounds: 3, Limit: 12 * time.Second}),
		fleets("storm-large", storm.Plan{Connections: direct, N: 250, Work: quick, Ways: many, Rounds: 2, Limit: 20 * time.Second}),
		fleets("storm-long",
			storm.Plan{Connections: direct, N: 100, Work: time.Second, Ways: many, Rounds: 1, Limit: 20 * time.Second},
			storm.Plan{Connections: direct, N: 100, Work: 10 * time.Second, Ways: long, Rounds: 1, Limit: 25 * time.Second}),
		fleets("storm-four", storm.Plan{Connections: four, N: 100, Work: quick, Ways: all, Rounds: 1, Limit: 12 * time.Second}),
		fleets("storm-twenty", storm.Plan{Connections: twenty, N: 100, Work: quick, Ways: all, Rounds: 1, Limit: 12 * time.Second}),
		fleets("storm-limited", storm.Plan{Connections: limited, N: 60, Work: quick, Ways: all, Rounds: 1, Limit: 12 * time.Second}),
	}
}

func fleets(name string, plans ...storm.Plan) part {
	return part{name, func(ctx context.Context, l *lab.Lab) (any, error) {
		n := 0
		for _, p := range plans {
			n = max(n, p.N)
		}
		f, err := storm.Worker.Start(n)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // the measurement is over
		all := &storm.Result{}
		for _, p := range plans {
			r, err := p.Measure(ctx, l, f)
			if err != nil {
				return nil, err
			}
			all.Rows = append(all.Rows, r.Rows...)
		}
		return all, nil
	}}
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
