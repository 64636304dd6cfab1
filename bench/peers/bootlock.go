package peers

import (
	"context"
	"database/sql"

	"github.com/bootlock/bootlock/advisorylock"
)

func openXactLock(_ context.Context, db *sql.DB) (Lock, func() error, error) {
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		return advisorylock.WithXactLock(ctx, db, Key, func(ctx context.Context, _ *sql.Tx) error { return fn(ctx) })
	}, none, nil
}

func openHold(_ context.Context, db *sql.DB) (Lock, func() error, error) {
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		return advisorylock.Hold(ctx, db, Key, fn)
	}, none, nil
}
