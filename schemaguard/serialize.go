package schemaguard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/bridge"
	"github.com/bootlock/bootlock/internal/mocked"
)

// migrateAlone calls migrate in one process at a time. With Once or UpToDate, the
// processes that find the lock taken do not wait for their turns: whenever they find
// it free they ask first whether there is anything left to do.
func (e *ensurer) migrateAlone(ctx context.Context) error {
	call := e.call(locktrace.Migrate, MigrateKey(e.Key))
	call.Work = e.db
	if e.lockDB != e.db && !mocked.Is(e.db) {
		e.run = e.onSameDatabase(e.run)
	}
	if e.once() {
		call.Done = func(ctx context.Context) (bool, error) {
			done, _, err := e.ask(ctx)
			return done, e.failed(locktrace.UpToDate, err)
		}
	}
	if e.Once != "" {
		if err := e.askElsewhere(ctx); err != nil {
			return e.failed(locktrace.UpToDate, err)
		}
		call.Record = e.record
	}
	return bridge.Hold(ctx, call, func(ctx context.Context) error {
		done, err := e.upToDate(ctx, true)
		switch {
		case err != nil:
			return err
		case done:
			return bridge.ErrNothing
		}
		return e.migrate(ctx)
	})
}

// askElsewhere is for a LockDB of one connection, which is the lock's from then on: the
// right to record is checked before the lock, and the row asked for over db.
func (e *ensurer) askElsewhere(ctx context.Context) error {
	if e.lockDB == e.db || e.lockDB.Stats().MaxOpenConnections != 1 {
		return nil
	}
	e.rowDB = e.db
	return e.patiently(ctx, e.checkRecord)
}

// onSameDatabase returns run, which fails if db does not see the lock that LockDB holds.
func (e *ensurer) onSameDatabase(run func(ctx context.Context, db *sql.DB) error) func(ctx context.Context, db *sql.DB) error {
	try := fmt.Sprintf("SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock_shared(%d) THEN 1 ELSE 0 END)", MigrateKey(e.Key))
	return func(ctx context.Context, db *sql.DB) error {
		err := e.patiently(ctx, func(ctx context.Context) error {
			free, err := bounded.Exec(ctx, db, try)
			if err == nil && free > 0 {
				return errOtherDatabase
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("not called: %w", err)
		}
		return run(ctx, db)
	}
}

var errOtherDatabase = errors.New("the lock that LockDB holds is not seen from db: the two are not on the same database")
