package schemaguard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/room"
)

// Await is for processes that must not migrate, such as workers, and services
// whose role may not: it returns nil when UpToDate answers true. It calls no
// migrate, sends no DDL and needs no right beyond CONNECT, apart from those that
// UpToDate needs. It works on a standby and through PgBouncer.
//
// Await blocks for as long as ctx lasts. While another process migrates under a
// Guard of the same Key, Await waits for the end of that, together with any
// number of others, and all of them go on at once. Otherwise it asks UpToDate
// again from time to time, at intervals that grow to about a second. An error of
// UpToDate ends it, except those that count as false.
//
// The error is a [locktrace.StepError]; Await leaves nothing behind. It panics
// if UpToDate is nil.
func (g Guard) Await(ctx context.Context, db *sql.DB, schema string) error {
	const op = "schemaguard.Await"
	if g.UpToDate == nil {
		panic(op + ": nil Guard.UpToDate")
	}
	e, err := g.ensurer(ctx, op, db, schema)
	if err != nil {
		return err
	}
	if done, err := e.upToDate(ctx, room.Start()); done || err != nil {
		return err
	}
	return e.await(ctx)
}

const (
	// patience and reportEvery are when Trace.Waiting is called first, and how
	// often from then on.
	patience    = time.Second
	reportEvery = 10 * time.Second
)

// await is one step, however often it asks.
func (e *ensurer) await(ctx context.Context) error {
	var failed *locktrace.StepError
	err := e.step(ctx, locktrace.Await, func(ctx context.Context) error {
		w := awaiter{ensurer: *e, waiting: e.waiting(), began: room.Start(), next: time.Now().Add(patience)}
		w.Trace = nil
		for {
			asked := time.Now()
			err := w.untilNobodyMigrates(ctx)
			// While there is no connection, or none any more, it waits on.
			if err != nil && (ctx.Err() != nil || !room.Short(err) && !room.Gone(err)) {
				return err
			}
			if done, err := w.upToDate(ctx, room.Start()); done || err != nil {
				return err
			}
			w.report(ctx, err)
			if !w.began.Pause(ctx, time.Since(asked), false) {
				return bounded.Ended(ctx, fmt.Errorf("UpToDate is still false after %v, and nobody migrates", w.began.Waited().Round(time.Millisecond)))
			}
		}
	})
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed) && failed.Op == e.op:
		return failed
	}
	return e.failed(locktrace.Await, err)
}

// awaiter is one wait of Await. Its questions are no steps of their own.
type awaiter struct {
	ensurer
	began   room.Pace
	waiting func(ctx context.Context, w locktrace.Wait) // Trace.Waiting
	next    time.Time                                   // when it is due
}

// waiting is the hook of the trace, or nil.
func (e *ensurer) waiting() func(ctx context.Context, w locktrace.Wait) {
	if e.Trace == nil {
		return nil
	}
	return e.Trace.Waiting
}

// untilNobodyMigrates waits for the lock of migrate if somebody has it, in shared
// mode, so that all who wait are granted at once. It looks first: a lock that
// every waiter took for an instant would keep those who try for it from
// migrating, and on a standby, where nobody has it, it would mean nothing.
func (w *awaiter) untilNobodyMigrates(ctx context.Context) error {
	key := MigrateKey(w.Key)
	sessions, err := advisorylock.Sessions(ctx, w.db, key)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.Granted && !s.Shared {
			return w.named(w.shared().WithXactLock(ctx, w.db, key, func(context.Context, *sql.Tx) error { return nil }))
		}
	}
	return nil
}

func (w *awaiter) shared() advisorylock.Locker {
	locker := w.locker(locktrace.Migrate)
	locker.Shared = true
	if w.waiting != nil {
		locker.Trace = &locktrace.Trace{Waiting: func(ctx context.Context, wait locktrace.Wait) {
			w.tell(ctx, wait.Holders, wait.Err)
		}}
	}
	return locker
}

// report tells Trace.Waiting of a wait in which nobody migrates.
func (w *awaiter) report(ctx context.Context, err error) {
	if w.waiting != nil && !time.Now().Before(w.next) {
		w.tell(ctx, nil, err)
	}
}

func (w *awaiter) tell(ctx context.Context, holders []advisorylock.Session, err error) {
	w.next = time.Now().Add(reportEvery)
	w.waiting(ctx, locktrace.Wait{
		For: locktrace.Migrate, Key: int64(MigrateKey(w.Key)), Name: w.schema, Waited: w.began.Waited(), Holders: holders, Err: err,
	})
}
