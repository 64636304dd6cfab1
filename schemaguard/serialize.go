package schemaguard

import (
	"context"
	"database/sql"
	"errors"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/room"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

// migrateOnce lets one process of the fleet migrate.
//
// Those who find the lock taken wait in shared mode, so that all are granted at
// once when the winner is done, rather than one after the other. If the winner
// failed, they queue for the lock in exclusive mode and do not try for it: with
// many of them some would always still have it in shared mode, and no try would
// succeed.
func (e *ensurer) migrateOnce(ctx context.Context) error {
	key, locker := MigrateKey(e.Key), e.locker(locktrace.Migrate)
	won := false
	err := locker.TryHold(ctx, e.db, key, func(ctx context.Context) error {
		won = true
		return e.migrateUnlessDone(ctx)
	})
	// An error of migrate's own may be ErrNotAcquired as well.
	if won || !errors.Is(err, advisorylock.ErrNotAcquired) {
		return e.named(err)
	}
	shared := locker
	shared.Shared = true
	err = shared.WithXactLock(ctx, e.db, key, func(context.Context, *sql.Tx) error { return nil })
	if err != nil {
		return e.named(err)
	}
	if done, err := e.upToDate(ctx, room.Start()); done || err != nil {
		return err
	}
	return e.named(locker.Hold(ctx, e.db, key, e.migrateUnlessDone))
}

func (e *ensurer) migrateUnlessDone(ctx context.Context) error {
	if done, err := e.upToDate(ctx, room.Lead()); done || err != nil {
		return err
	}
	return e.migrateAlone(ctx)
}

// migrateAlone is migrate under the lock. First it sees to it that there is a
// connection for migrate: where the server is short of them, it waits for one.
// Those who wait for the lock leave room for it.
func (e *ensurer) migrateAlone(ctx context.Context) error {
	if e.db.Stats().Idle == 0 {
		err := room.Patiently(ctx, room.Lead(), func(ctx context.Context) error {
			conn, err := bounded.Open(ctx, e.db)
			if err == nil {
				_ = conn.Release(ctx)
			}
			return err
		})
		if ctx.Err() != nil { // the lock may be lost as well
			if err == nil {
				err = ctx.Err()
			}
			return e.failed(locktrace.Connect, bounded.Ended(ctx, err))
		}
		// Any other error migrate will see for itself.
	}
	return e.migrate(ctx)
}

// upToDate asks UpToDate, at that pace where connections are short; without one
// there is always something to do.
func (e *ensurer) upToDate(ctx context.Context, pace room.Pace) (done bool, err error) {
	if e.UpToDate == nil {
		return false, nil
	}
	err = e.step(ctx, locktrace.UpToDate, func(ctx context.Context) (err error) {
		err = room.Patiently(ctx, pace, func(ctx context.Context) error {
			done, err = e.UpToDate(ctx, e.db)
			return err
		})
		if code := sqlstate.Of(err); code == "42P01" || code == "3F000" {
			done, err = false, nil // no such table, or no such schema: this is the first start
		}
		return err
	})
	if err != nil {
		return false, e.failed(locktrace.UpToDate, err)
	}
	return done, nil
}
