package peers

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"ariga.io/atlas/sql/postgres"
	"ariga.io/atlas/sql/schema"
	cirello "cirello.io/pglock"
	allisson "github.com/allisson/go-pglock/v3"
)

// openAtlas takes the lock that atlas takes around a migration. How long to wait is
// the caller's to say: here for ever, since ctx ends the wait.
func openAtlas(_ context.Context, db *sql.DB) (Lock, func() error, error) {
	driver, err := postgres.Open(db)
	if err != nil {
		return nil, nil, err
	}
	locker, ok := driver.(schema.Locker)
	if !ok {
		return nil, nil, errors.New("peers: atlas's driver has no lock")
	}
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		unlock, err := locker.Lock(ctx, "bootlock", time.Hour)
		if err != nil {
			return err
		}
		return errors.Join(fn(ctx), unlock())
	}, none, nil
}

// openCirello creates the table of cirello.io/pglock, whose locks are rows. lease and
// beat are in milliseconds; 0 is its own.
func openCirello(lease, beat int) func(ctx context.Context, db *sql.DB) (Lock, func() error, error) {
	return func(_ context.Context, db *sql.DB) (Lock, func() error, error) {
		var options []cirello.ClientOption
		if lease > 0 {
			options = append(options, cirello.WithLeaseDuration(time.Duration(lease)*time.Millisecond),
				cirello.WithHeartbeatFrequency(time.Duration(beat)*time.Millisecond))
		}
		client, err := cirello.UnsafeNew(db, options...)
		if err != nil {
			return nil, nil, err
		}
		if err := client.TryCreateTable(); err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context, fn func(ctx context.Context) error) error {
			return client.Do(ctx, "bootlock", func(ctx context.Context, _ *cirello.Lock) error { return fn(ctx) })
		}, none, nil
	}
}

func openAllisson(ctx context.Context, db *sql.DB) (Lock, func() error, error) {
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		l, err := allisson.NewLock(ctx, Key, db)
		if err != nil {
			return err
		}
		if err := l.WaitAndLock(ctx); err != nil {
			return errors.Join(err, l.Close())
		}
		return errors.Join(fn(ctx), l.Unlock(context.WithoutCancel(ctx)), l.Close())
	}, none, nil
}
