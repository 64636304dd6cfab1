// Package waiting is what all waits of this module have in common: how long a
// waiter pauses before it polls again ([Next]), which errors do not end a wait
// ([Short], [Gone]), and how a wait is reported to its trace ([Report]).
package waiting

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/bootlock/bootlock/internal/bounded"
)

const (
	shortest  = 2 * time.Millisecond
	longest   = 250 * time.Millisecond
	patient   = 30 * time.Second // from then on a waiter has time for
	sedate    = time.Second      // this
	perPoll   = 2                // pauses are at least so many times what a poll takes
	slowest   = 3 * time.Second
	whenShort = 100 * time.Millisecond
)

// Next returns the longest pause after a poll that took so long, of a waiter that
// has waited so long; short is whether connections are.
//
// With a tenth of the wait so far, no waiter waits more than a tenth longer than
// needed. With a multiple of what the poll took, polls are not most of the work of a
// server or pooler. If connections are short, each poll opens one, which costs the
// server much more than the poll: a waiter gets through only if all poll more rarely.
func Next(waited, took time.Duration, short bool) time.Duration {
	most := longest
	if waited >= patient {
		most = sedate
	}
	pause := max(shortest, min(waited/10, most), min(perPoll*took, slowest))
	if short {
		pause = max(pause, whenShort, min(2*perPoll*took, waited/2))
	}
	return pause
}

// Pause waits for d, half of it at random, so that waiters that start together do
// not poll together. It reports whether ctx lasted.
func Pause(ctx context.Context, d time.Duration) bool {
	if d > 1 {
		d = d/2 + rand.N(d/2) //nolint:gosec // not a secret
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	_, _ = bounded.Until(ctx, timer.C)
	return ctx.Err() == nil
}
