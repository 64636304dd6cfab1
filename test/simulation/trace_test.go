package simulation

import (
	"slices"
	"testing"

	"github.com/bootlock/bootlock/test/history"
	"github.com/bootlock/bootlock/test/model"
)

// What three processes see of one lock is something that the model of the lease and its
// fence can do.
func TestTracesFollowTheModel(t *testing.T) {
	t.Parallel()
	const traces = 8
	l := model.Lease{Processes: 3}
	ops, lost := 0, 0
	for s := range uint64(traces) {
		r := run(t, Config{Seed: *seed + s, Small: true})
		if err := l.Replay(r.History); err != nil {
			t.Errorf("seed %d: %v\n%v", *seed+s, err, r.History)
		}
		ops += len(r.History)
		for _, op := range r.History {
			if op.Kind == history.Lost {
				lost++
			}
		}
	}
	t.Logf("%d traces with %d operations, %d of them the loss of a lease", traces, ops, lost)
	if lost == 0 {
		t.Error("nobody lost a lease: the traces show little")
	}
}

// It can't do what is forged.
func TestForgedTraces(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(ops []history.Op) []history.Op{
		"a holder that does not wait for the one before": func(ops []history.Op) []history.Op {
			i := first(ops, history.Granted, true)
			op := ops[i]
			op.Process, op.Holder, op.Return = (op.Process+1)%3, 99, op.Return+1
			return slices.Insert(ops, i+1, op)
		},
		"a commit after the next one has begun": func(ops []history.Op) []history.Op {
			i := first(ops, history.Committed, true)
			ops[i].Call = ops[len(ops)-1].Return
			ops[i].Return = ops[i].Call + 1
			return ops
		},
		"a commit without a fence": func(ops []history.Op) []history.Op {
			i := first(ops, history.Committed, true)
			return slices.DeleteFunc(ops, func(op history.Op) bool {
				return op.Kind == history.Fenced && op.Holder == ops[i].Holder
			})
		},
		"nil to one who has lost the lock": func(ops []history.Op) []history.Op {
			i := first(ops, history.Released, true)
			lost := ops[i]
			lost.Kind, lost.Return = history.Lost, lost.Call
			return slices.Insert(ops, i, lost)
		},
		"a fence that refuses one who has the lock": func(ops []history.Op) []history.Op {
			ops[first(ops, history.Fenced, true)].OK = false
			return ops
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calm := run(t, Config{Seed: calmSeed, Small: true}).History
			l := model.Lease{Processes: 3}
			if err := l.Replay(calm); err != nil {
				t.Fatalf("what is not forged yet: %v", err)
			}
			if err := l.Replay(forge(calm)); err == nil {
				t.Errorf("the model does what is forged: %v", calm)
			} else {
				t.Log(err)
			}
		})
	}
}

// calmSeed is one of a schedule in which several processes have their turns and nothing
// goes wrong.
const calmSeed = 3

func first(ops []history.Op, kind history.Kind, ok bool) int {
	return slices.IndexFunc(ops, func(op history.Op) bool {
		return op.Kind == kind && (op.OK == ok || kind == history.Granted)
	})
}
