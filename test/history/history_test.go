package history

import (
	"testing"
	"time"
)

// Each line is a history of one lock: what happened, in which seconds.
func TestCheck(t *testing.T) {
	t.Parallel()
	lease := func(holder int, call, ret time.Duration) Op {
		return Op{Kind: Granted, Process: holder, Holder: holder, Lease: true, Call: call, Return: ret}
	}
	inTx := func(holder int, call, ret time.Duration) Op {
		op := lease(holder, call, ret)
		op.Lease = false
		return op
	}
	of := func(kind Kind, holder int, ok bool, call, ret time.Duration) Op {
		return Op{Kind: kind, Process: holder, Holder: holder, OK: ok, Call: call, Return: ret}
	}
	ended := func(process int, call, ret time.Duration) Op { return of(Ended, process, false, call, ret) }

	for name, c := range map[string]struct {
		accepted bool
		ops      []Op
	}{
		"one after the other":                  {true, []Op{lease(1, 0, 1), of(Released, 1, true, 5, 6), lease(2, 0, 6)}},
		"two at the same time":                 {false, []Op{lease(1, 0, 1), of(Released, 1, true, 5, 6), lease(2, 0, 4)}},
		"the next after a terminate":           {true, []Op{lease(1, 0, 1), ended(1, 3, 3), lease(2, 0, 4), of(Lost, 1, true, 5, 5), of(Released, 1, false, 6, 7)}},
		"the next before a terminate":          {false, []Op{lease(1, 0, 1), lease(2, 0, 2), ended(1, 3, 3), of(Lost, 1, true, 5, 5)}},
		"another one's session was ended":      {false, []Op{lease(1, 0, 1), ended(3, 3, 3), lease(2, 0, 4), of(Lost, 1, true, 5, 5)}},
		"told, and then the next":              {true, []Op{lease(1, 0, 1), of(Lost, 1, true, 3, 3), lease(2, 0, 4), of(Released, 1, false, 6, 7)}},
		"the next, and then told":              {false, []Op{lease(1, 0, 1), lease(2, 0, 4), of(Lost, 1, true, 5, 5), of(Released, 1, false, 6, 7)}},
		"a grant that comes when it is over":   {false, []Op{lease(1, 0, 9), of(Released, 1, true, 9, 10), lease(2, 0, 5), of(Released, 2, true, 11, 12)}},
		"nil to one who was followed":          {false, []Op{lease(1, 0, 1), ended(1, 3, 3), lease(2, 0, 4), of(Released, 1, true, 6, 7)}},
		"nil to one whose session lives":       {true, []Op{lease(1, 0, 1), ended(Everybody, 3, 3), of(Released, 1, true, 6, 7), lease(2, 0, 7)}},
		"a commit in time":                     {true, []Op{lease(1, 0, 1), of(Fenced, 1, true, 2, 2), ended(1, 3, 3), of(Committed, 1, true, 3, 5), lease(2, 0, 5)}},
		"a commit that is late":                {false, []Op{lease(1, 0, 1), ended(1, 3, 3), lease(2, 0, 4), of(Committed, 1, true, 5, 6)}},
		"a commit that is late, after release": {false, []Op{lease(1, 0, 1), of(Released, 1, true, 2, 3), lease(2, 0, 4), of(Committed, 1, true, 5, 6)}},
		"a commit in time, after release":      {true, []Op{lease(1, 0, 1), of(Released, 1, true, 2, 3), of(Committed, 1, true, 5, 6), lease(2, 0, 7)}},
		"a transaction waits for no fence":     {true, []Op{lease(1, 0, 1), ended(1, 3, 3), inTx(2, 0, 4), of(Committed, 1, true, 5, 6)}},
		"a transaction waits for the lock":     {false, []Op{lease(1, 0, 1), inTx(2, 0, 4), of(Released, 1, true, 5, 6)}},
		"a fence that lets a late one through": {false, []Op{lease(1, 0, 1), of(Lost, 1, true, 3, 3), lease(2, 0, 4), of(Fenced, 1, true, 5, 5)}},
		"a fence of one that is done":          {false, []Op{lease(1, 0, 1), of(Released, 1, true, 3, 4), of(Fenced, 1, true, 5, 5)}},
		"a fence that the server still has":    {true, []Op{lease(1, 0, 1), of(Lost, 1, true, 3, 3), of(Fenced, 1, true, 4, 4), lease(2, 0, 5)}},
		"a fence that refuses one in time":     {false, []Op{lease(1, 0, 1), of(Fenced, 1, false, 2, 2), of(Released, 1, true, 3, 3)}},
		"a fence that refuses a late one":      {true, []Op{lease(1, 0, 1), ended(1, 2, 2), of(Fenced, 1, false, 3, 3)}},
		"a try that finds it taken":            {true, []Op{lease(1, 0, 1), of(Refused, 2, false, 2, 2)}},
		"a try that finds nobody":              {false, []Op{of(Refused, 2, false, 2, 2)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range c.ops {
				c.ops[i].Key, c.ops[i].Call, c.ops[i].Return = 7, c.ops[i].Call*time.Second, c.ops[i].Return*time.Second
			}
			if err := Check(c.ops); (err == nil) != c.accepted {
				t.Errorf("got %v; want it accepted: %t", err, c.accepted)
			}
		})
	}
}
