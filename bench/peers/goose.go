package peers

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/pressly/goose/v3/lock"
)

const gooseModule = "github.com/pressly/goose/v3"

// openGooseSession makes a locker for each Lock, since a locker counts how often it
// has asked over all of its uses. period is in seconds; 0 is goose's own.
func openGooseSession(period uint64) func(ctx context.Context, db *sql.DB) (Lock, func() error, error) {
	return func(_ context.Context, db *sql.DB) (Lock, func() error, error) {
		return func(ctx context.Context, fn func(ctx context.Context) error) error {
			var options []lock.SessionLockerOption
			if period > 0 {
				options = append(options, lock.WithLockTimeout(period, 3600))
			}
			locker, err := lock.NewPostgresSessionLocker(options...)
			if err != nil {
				return err
			}
			return onConn(db, locker.SessionLock, locker.SessionUnlock)(ctx, fn)
		}, none, nil
	}
}

// openGooseTable is the same for the table locker; period is in milliseconds.
func openGooseTable(period int) func(ctx context.Context, db *sql.DB) (Lock, func() error, error) {
	return func(_ context.Context, db *sql.DB) (Lock, func() error, error) {
		return func(ctx context.Context, fn func(ctx context.Context) error) error {
			var options []lock.TableLockerOption
			if period > 0 {
				options = append(options, lock.WithTableLockTimeout(time.Duration(period)*time.Millisecond, 72_000))
			}
			locker, err := lock.NewPostgresTableLocker(options...)
			if err != nil {
				return err
			}
			if err := locker.Lock(ctx, db); err != nil {
				return err
			}
			return errors.Join(fn(ctx), locker.Unlock(ctx, db))
		}, none, nil
	}
}
