package schemaguard

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/waiting"
)

// Await is for processes that must not migrate, such as workers, and services
// whose role may not: it returns nil when the row of Once is there, or UpToDate
// answers true. It calls no migrate, sends no DDL, takes no lock, and works on a
// standby and through PgBouncer. Once takes no right but CONNECT, USAGE on the
// schema and SELECT on its table, which Ensure grants to everybody.
//
// Await blocks for as long as ctx lasts, and asks from time to time, at intervals
// of a tenth of the wait, a quarter of a second at most and a second after half a
// minute. What does not exist yet, or may not be read yet, counts as no; a restart
// of the server does not end the wait; any other error of UpToDate does. Where the
// server is short of connections, Await keeps none between two questions.
//
// The error is a [locktrace.StepError]; Await leaves nothing behind. It panics
// if there is neither Once nor UpToDate.
func (g Guard) Await(ctx context.Context, db *sql.DB, schema string) error {
	const op = "schemaguard.Await"
	if g.UpToDate == nil && g.Once == "" {
		panic(op + ": neither Guard.Once nor Guard.UpToDate")
	}
	e, err := g.ensurer(ctx, op, db, schema)
	if err != nil {
		return err
	}
	e.awaits = true
	if done, err := e.upToDate(ctx, false); done || err != nil {
		return err
	}
	return e.failed(locktrace.Await, e.step(ctx, locktrace.Await, e.await))
}

// countEvery is how often Await looks whether connections are short.
const countEvery = time.Second

var errStillNo = errors.New("there is still something to migrate")

// await is one step, however often it asks.
func (e *ensurer) await(ctx context.Context) error {
	ctx, report := e.report(ctx)
	defer report.End()
	asked := e.db
	if e.Once != "" {
		asked = e.lockDB
	}
	short, counted := false, time.Now()
	for {
		took := report.Since()
		done, notYet, err := e.ask(ctx)
		if done || err != nil && !waiting.Passes(err) {
			return err
		}
		why := cmp.Or(err, notYet)
		report.Because(why)
		if time.Since(counted) > countEvery {
			short, counted = waiting.Count(ctx, asked), time.Now()
		}
		short = short || waiting.Short(err)
		if short {
			waiting.Leave(ctx, asked)
		}
		if !waiting.Pause(ctx, waiting.Next(report.Waited(), took(), short)) {
			return bounded.Ended(ctx, fmt.Errorf("%w after %v", cmp.Or(why, errStillNo), report.Waited().Round(time.Millisecond)))
		}
	}
}
