// Package riverpgx runs River's migrations, over a pgxpool, under the guard.
//
// rivermigrate has no lock, so the whole migrate has to be serialized:
// Serialize, or UpToDate, which implies it. Package river does the same over
// database/sql.
package riverpgx

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/bootlock/bootlock/schemaguard"
)

// Start is what a program calls before it serves.
func Start(ctx context.Context, pool *pgxpool.Pool) error {
	db := DB(pool)
	defer db.Close() // the pool stays open
	return Guard(pool).Ensure(ctx, db, "app", func(ctx context.Context, _ *sql.DB) error {
		return Migrate(ctx, pool)
	})
}

// DB shows pool as an *sql.DB. It has to know the size of the pool: the guard
// keeps one connection while Migrate works with the others.
func DB(pool *pgxpool.Pool) *sql.DB {
	db := stdlib.OpenDBFromPool(pool)
	db.SetMaxOpenConns(int(pool.Config().MaxConns))
	return db
}

// Guard lets one process migrate; the others go on together when it is done.
func Guard(pool *pgxpool.Pool) schemaguard.Guard {
	return schemaguard.Guard{UpToDate: func(ctx context.Context, _ *sql.DB) (bool, error) {
		migrator, err := migrator(pool)
		if err != nil {
			return false, err
		}
		result, err := migrator.Validate(ctx, nil) // which only reads
		if err != nil {
			return false, err
		}
		return result.OK, nil
	}}
}

// Migrate is the README's.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := migrator(pool)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func migrator(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	return rivermigrate.New(riverpgxv5.New(pool), nil)
}
