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
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/waiting"
)

// Await waits until another process has migrated: until the row of Once is there, or
// UpToDate returns true. It is for workers, and for services whose role may not
// migrate. It sends no DDL, takes no lock, and works on a standby and through
// PgBouncer. With Once, the role needs CONNECT, USAGE on the schema and SELECT on the
// table, which Ensure grants to PUBLIC.
//
// Await blocks for as long as ctx lasts, and polls at intervals of a tenth of the wait,
// up to a quarter of a second, or up to a second after half a minute. What does not
// exist or may not be read yet counts as no. A restart of the server does not end the
// wait; any other error of UpToDate does. If connections are short, Await keeps none
// between two polls.
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
	if done, err := e.upToDate(ctx, false); done || err != nil && !sqlstate.Lost(err) {
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
