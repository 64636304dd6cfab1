// Package schemaguard makes schema bootstrap on PostgreSQL safe when many
// processes start at once, over any *sql.DB.
//
// CREATE SCHEMA IF NOT EXISTS is not safe against itself: two sessions can both
// find the schema missing, and one of them then fails with duplicate key value
// violates unique constraint "pg_namespace_nspname_index". [Ensure] creates the
// schema under an advisory lock that is scoped to the transaction, commits,
// gives the connection back, and only then lets the migration code run:
//
//	connect  begin  lock  create schema  [bootstrap]  commit  release  migrate
//
// On failure, rollback and release take the place of the steps still due. The
// happy path sends BEGIN, the lock, CREATE SCHEMA and COMMIT, and nothing else:
// four round trips, no prepared statement.
//
//   - [Ensure] does that.
//   - [Guard] has the options: more DDL under the same lock, an owner, one
//     migrate at a time in the whole fleet.
//   - [KeyFor] and [MigrateKey] are the advisory locks it takes.
//
// Everything is safe for concurrent use. A nil context or db panics; a nil
// migrate is fine. The package follows semantic versioning with its module; it
// compiles nothing but the standard library into the program.
package schemaguard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/step"
)

// Guard has the options of Ensure. Its zero value is ready; it can be copied
// and shared, and Ensure does not change it.
type Guard struct {
	// Owner is the role that owns the schema if it is created now, by CREATE
	// SCHEMA … AUTHORIZATION. Empty means the current role.
	Owner string

	// Bootstrap does more under the same lock, in the same transaction, after
	// CREATE SCHEMA: the migrations table, GRANTs, extensions. It may run in
	// every start of every process, and again after a clash, so its statements
	// should be idempotent. It must not commit or roll back.
	Bootstrap func(ctx context.Context, tx *sql.Tx) error

	// SkipIfExists looks first whether the schema is there, outside any
	// transaction. If it is, that one round trip is all: no lock, and no
	// Bootstrap either.
	SkipIfExists bool

	// Serialize runs migrate under [advisorylock.Hold], after the schema's own
	// connection was released, so that one process of the fleet migrates at a
	// time. Libraries without a lock of their own need it. The pool must allow
	// two connections. The key is [MigrateKey] of the schema's key.
	Serialize bool

	// UpToDate is asked whether there is anything left to migrate: at the very
	// start, where true ends Ensure at once without any lock, and again after
	// waiting. It implies Serialize and makes it a sync.Once for the fleet: one
	// process migrates, and all others go on together when it is done, without
	// one turn each. An error that says that a table or the schema is not there
	// (42P01, 3F000) counts as false; any other ends Ensure.
	UpToDate func(ctx context.Context, db *sql.DB) (bool, error)

	// Key is the advisory lock's key. Zero means KeyFor(schema).
	Key advisorylock.Key

	// TTL is how long a process that has gone silent keeps others waiting; see
	// [advisorylock.Locker].
	TTL time.Duration

	// Trace watches the steps. Nil watches nothing.
	Trace *locktrace.Trace
}

// Ensure creates schema if it does not exist, and then calls migrate, which is
// not serialised: by then the lock is free and the connection back in the pool.
// It is the zero [Guard]'s; see [Guard.Ensure].
func Ensure(ctx context.Context, db *sql.DB, schema string, migrate func(ctx context.Context, db *sql.DB) error) error {
	return Guard{}.Ensure(ctx, db, schema, migrate)
}

// Ensure creates schema if it does not exist, and then calls migrate, which is
// not serialised unless Serialize or UpToDate is set: by then the lock is free
// and the connection back in the pool. A nil migrate is left out.
//
// It blocks while others create the schema, for as long as ctx lasts; ctx is
// the only timeout. One connection is used at a time, and none is held during
// migrate unless it is serialised, so that a pool of one is enough.
//
// A clash with a process that creates the schema without this guard is rolled
// back and tried again, a few times, after a short random pause. Where the role
// may not create schemas, or the server is read-only, it is enough that the
// schema exists already; Bootstrap then still runs, but not on a read-only
// server.
//
// The name is taken as it is, quoted. Empty names, names with a NUL byte, of
// more than 63 bytes or that start with pg_ are refused before anything is
// sent: the server would cut or refuse them.
//
// On failure migrate is not called, and the error is a [locktrace.StepError]
// that says which step failed. Nothing is left behind but what was committed,
// and after a failed commit it is unknown whether it was. migrate's own error
// has the step Migrate, and the schema stays.
func (g Guard) Ensure(ctx context.Context, db *sql.DB, schema string, migrate func(ctx context.Context, db *sql.DB) error) error {
	if ctx == nil {
		panic("schemaguard.Ensure: nil context")
	}
	if db == nil {
		panic("schemaguard.Ensure: nil *sql.DB")
	}
	if err := g.check(schema); err != nil {
		return fmt.Errorf("schemaguard.Ensure %q: %w", schema, err)
	}
	e := ensurer{Guard: g, db: db, schema: schema, run: migrate}
	if e.Key == 0 {
		e.Key = KeyFor(schema)
	}
	if done, err := e.upToDate(ctx); done || err != nil {
		return err
	}
	if err := e.ensureSchema(ctx); err != nil {
		return err
	}
	switch {
	case migrate == nil:
		return nil
	case g.UpToDate != nil:
		return e.migrateOnce(ctx)
	case g.Serialize:
		return e.named(e.lease().Hold(ctx, db, MigrateKey(e.Key), e.migrate))
	}
	return e.migrate(ctx)
}

// ensurer is one call of Ensure.
type ensurer struct {
	Guard
	db     *sql.DB
	schema string
	run    func(ctx context.Context, db *sql.DB) error
}

// attempts is how often the schema's transaction is tried when it clashes with
// an unguarded process.
const attempts = 5

func (e *ensurer) ensureSchema(ctx context.Context) error {
	if e.SkipIfExists {
		if there, err := e.look(ctx); there || err != nil {
			return err
		}
	}
	create := e.createSQL()
	for try := 1; ; try++ {
		at, err := e.transact(ctx, create)
		switch {
		case err == nil:
			return nil
		case clash(at, err) && try < attempts:
			if !e.pause(ctx, try) {
				return e.failed(at, bounded.Ended(ctx, err))
			}
			continue
		case !refused(at, err):
			return e.failed(at, err)
		}
		there, lookErr := e.look(ctx)
		if lookErr != nil {
			return e.failed(at, fmt.Errorf("%w; and looking whether the schema is there: %w", err, lookErr))
		}
		if !there {
			return e.failed(at, fmt.Errorf("the schema does not exist, and %s: %w", advice(err), err))
		}
		if e.Bootstrap == nil || readOnly(err) {
			return nil
		}
		create = "" // it is there, and this role may do the rest
	}
}

// transact runs the schema's transaction, and says which step an error is of.
func (e *ensurer) transact(ctx context.Context, create string) (locktrace.Step, error) {
	var at locktrace.Step
	var fnErr error
	locker := advisorylock.Locker{TTL: e.TTL, Trace: e.Trace, Name: e.schema}
	err := locker.WithXactLock(ctx, e.db, e.Key, func(ctx context.Context, tx *sql.Tx) error {
		if create != "" {
			at = locktrace.CreateSchema
			fnErr = e.step(ctx, at, func(ctx context.Context) error {
				return bounded.Ended(ctx, bounded.Do(ctx, e.db, func() error {
					_, err := tx.ExecContext(ctx, create)
					return err
				}))
			})
		}
		if fnErr == nil && e.Bootstrap != nil {
			at = locktrace.Bootstrap
			fnErr = e.step(ctx, at, func(ctx context.Context) error { return e.Bootstrap(ctx, tx) })
		}
		return fnErr
	})
	var own *locktrace.StepError
	if fnErr == nil && errors.As(err, &own) {
		return own.Step, own.Err
	}
	return at, err
}

// pause waits a short random time, longer with each try, and reports whether
// ctx lasted.
func (e *ensurer) pause(ctx context.Context, try int) bool {
	timer := time.NewTimer(time.Duration(try) * (5*time.Millisecond + rand.N(20*time.Millisecond))) //nolint:gosec // not a secret
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// look asks whether the schema is there, outside any transaction: lib/pq cannot
// begin one on a standby.
func (e *ensurer) look(ctx context.Context) (there bool, err error) {
	var conn *bounded.Conn
	err = e.step(ctx, locktrace.Connect, func(ctx context.Context) (err error) {
		conn, err = bounded.Open(ctx, e.db)
		return bounded.Ended(ctx, err)
	})
	if err != nil {
		return false, e.failed(locktrace.Connect, err)
	}
	err = e.step(ctx, locktrace.Look, func(ctx context.Context) error {
		rows, err := conn.Exec(ctx, e.lookSQL())
		there = rows == 1
		return bounded.Ended(ctx, err)
	})
	_ = e.step(ctx, locktrace.Release, conn.Release)
	if err != nil {
		return false, e.failed(locktrace.Look, err)
	}
	return there, nil
}

func (e *ensurer) migrate(ctx context.Context) error {
	err := e.step(ctx, locktrace.Migrate, func(ctx context.Context) error { return e.run(ctx, e.db) })
	if err != nil {
		return e.failed(locktrace.Migrate, err)
	}
	return nil
}

func (e *ensurer) step(ctx context.Context, s locktrace.Step, fn func(ctx context.Context) error) error {
	return step.Do(ctx, e.Trace, locktrace.Event{Step: s, Key: int64(e.Key), Name: e.schema}, fn)
}

func (e *ensurer) failed(at locktrace.Step, err error) error {
	return &locktrace.StepError{Op: "schemaguard.Ensure", Name: e.schema, Step: at, Err: err}
}

// named puts this operation's name on what Hold returned: a step that failed,
// or else a lease that was lost under migrate.
func (e *ensurer) named(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := err.(*locktrace.StepError); ok { //nolint:errorlint // only what was returned as it is
		return e.failed(s.Step, s.Err)
	}
	return e.failed(locktrace.Migrate, err)
}

// clash reports whether err comes from another session that did the same at the
// same time, without the lock.
func clash(at locktrace.Step, err error) bool {
	if at != locktrace.CreateSchema && at != locktrace.Bootstrap {
		return false
	}
	switch sqlstate.Of(err) {
	case "23505": // unique_violation: on a catalog it is a clash, on a user's table it is not
		return sqlstate.CatalogIndex(err) != ""
	case "42P06", "42P07", "42710": // duplicate schema, table, object
		return true
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	case "XX000": // two GRANTs: the server has no code of its own for it
		return sqlstate.Concurrent(err)
	}
	return false
}

// refused reports whether err leaves it open that the schema is there: the
// server checks the right to create it, and whether it may write at all, before
// it looks at IF NOT EXISTS.
func refused(at locktrace.Step, err error) bool {
	switch code := sqlstate.Of(err); at {
	case locktrace.CreateSchema:
		return code == "42501" || readOnly(err)
	case locktrace.Begin: // lib/pq asks for READ WRITE, which a standby cannot do
		return readOnly(err)
	}
	return false
}

func readOnly(err error) bool {
	code := sqlstate.Of(err)
	return code == "25006" || code == "0A000"
}

func advice(err error) string {
	if readOnly(err) {
		return "this server or session is read-only: create it on the primary first, or lift default_transaction_read_only"
	}
	return "this role may not create it: GRANT CREATE ON DATABASE to it, or create the schema once as another role"
}
