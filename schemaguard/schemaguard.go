// Package schemaguard makes schema bootstrap on PostgreSQL safe when many
// processes start at once, over any *sql.DB.
//
// CREATE SCHEMA IF NOT EXISTS is not safe against itself: two sessions can both
// find the schema missing, and one of them then fails with duplicate key value
// violates unique constraint "pg_namespace_nspname_index". The same happens to
// CREATE TABLE IF NOT EXISTS and to most other statements of a migration.
//
//   - [Guard.Once] makes it a sync.Once for the fleet: one process creates the
//     schema and migrates, all others go on when it is done, and later starts are
//     one round trip. Most programs need this one.
//   - [Migrate] lets one process at a time run the migration code, and every
//     process in its turn.
//   - [Ensure] creates the schema under the lock and lets all processes run
//     the migration code at once, for libraries that lock by themselves.
//   - [Guard] holds these and other options: more DDL under the schema's lock, an
//     owner, a pool of its own for the locks, a trace.
//   - [Guard.Await] waits until another process has migrated, for processes
//     that must not.
//   - [KeyFor] and [MigrateKey] return the keys of the locks.
//
// The order of the calls is always the same:
//
//	connect  begin  lock  create schema  [bootstrap]  commit  release  migrate
//
// If a step fails, the remaining steps are skipped: roll back, release. Up to migrate,
// Ensure sends BEGIN, the lock, CREATE SCHEMA and COMMIT, and nothing else: four round
// trips and no prepared statement. The lock belongs to the transaction, so that
// nothing can leave it behind.
//
// All functions and methods are safe for concurrent use. They panic if the
// context or the db is nil; migrate may be nil. The package follows semantic
// versioning with its module, and compiles nothing but the standard library
// into the program.
package schemaguard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/bridge"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/step"
	"github.com/bootlock/bootlock/internal/waiting"
)

// Guard holds the options of Ensure. The zero value is ready to use. A Guard may
// be copied and shared; its methods do not change it.
type Guard struct {
	// Once names what migrate does, and makes Ensure a sync.Once for the fleet:
	// migrate runs once for each name, in one process, and all others go on when
	// it is done. Later starts are one round trip, without a lock or a
	// transaction. Use [HashFS] of the migrations, or else the build's revision.
	// Empty means no name. Once implies Serialize, and excludes UpToDate.
	//
	// What has run is a row of the table bootlock_once, which Ensure creates in
	// the schema, so that it is dropped, dumped and restored together with what it
	// speaks of. The row is committed with the end of the lock, and only if
	// migrate returned nil and the lock was held to the end: as a rule migrate
	// runs once, and where that cannot be known, at least once. So migrate should
	// find by itself that there is nothing left to do.
	//
	// Ensure does not know what the name stands for: after a migration was taken
	// back by hand, delete its row. Programs that share a schema need names of
	// their own. A name has at most 255 bytes of printable ASCII, without ' and \.
	Once string

	// UpToDate, if not nil, is Once with a check of your own: it reports whether
	// nothing is left to migrate. Ensure calls it at the very start, where true
	// ends it without any lock, and again after each wait.
	//
	// An error that says that something does not exist yet counts as false
	// (SQLSTATE 42P01, 3F000, 42703, 42883, 42704). If a pooler has lost a prepared
	// statement (26000, 42P05), Ensure calls UpToDate again. Any other error ends
	// Ensure, without migrate. SELECT max(version) on an empty table returns NULL:
	// use COALESCE, or the error will end every start.
	UpToDate func(ctx context.Context, db *sql.DB) (bool, error)

	// Serialize runs migrate under [advisorylock.Hold], so that one process of
	// the fleet migrates at a time. Migration libraries without a lock of their
	// own need it, or Once. The lock takes a connection besides those that migrate
	// uses, so the pool must allow two. Its key is [MigrateKey] of the schema's
	// key.
	Serialize bool

	// SkipIfExists makes Ensure look for the schema first, outside any
	// transaction. If it is there, Ensure goes on to migrate after that one
	// round trip, without the schema's lock and without Bootstrap. With Once it
	// looks for the table instead, and for the row in any case.
	SkipIfExists bool

	// Bootstrap, if not nil, runs further DDL in the transaction that created
	// the schema and under the same lock: the migrations table, GRANTs,
	// extensions. It runs at every start of every process, and again after a
	// clash with an unguarded process, so its statements should be idempotent.
	// It does not run where Once or UpToDate finds at the start that nothing is
	// left to do, where SkipIfExists finds the schema, or on a read-only server.
	// It must not commit or roll back.
	Bootstrap func(ctx context.Context, tx *sql.Tx) error

	// Owner is the role that will own the schema if Ensure creates it, by
	// CREATE SCHEMA … AUTHORIZATION, and the table of Once. Empty means the
	// current role.
	Owner string

	// LockDB, if not nil, is a separate pool for the locks, the schema, Bootstrap
	// and the row of Once: a direct one if migrate goes through a pooler, or a
	// small one if migrate needs every connection of db. One connection is enough.
	// It must be on the same database as db, which Ensure checks under the lock
	// before migrate, and its role the same, or Owner. Nil means db.
	LockDB *sql.DB

	// Key is the key of the schema's advisory lock. Zero means KeyFor(schema).
	Key advisorylock.Key

	// TTL is how long a process that has gone silent, because it is frozen or
	// cut off, keeps others waiting. Zero means 30 seconds for migrate's lock,
	// and the server's own limit for the schema's; see [advisorylock.Locker].
	TTL time.Duration

	// Trace, if not nil, observes each step.
	Trace *locktrace.Trace
}

// Migrate creates schema if it does not exist and then calls migrate, in one
// process at a time: while it runs in one, the others wait for their turn. It
// is for migration code that takes no lock of its own, which is most of it.
//
// Every process runs migrate in its turn, so migrate should find by itself that
// there is nothing left to do, as migration libraries do. [Guard.Once] saves the
// turns. The pool must allow two connections: one keeps the lock
// while migrate uses the others.
//
// Migrate is Guard{Serialize: true}.Ensure; see [Guard.Ensure] for the rest.
func Migrate(ctx context.Context, db *sql.DB, schema string, migrate func(ctx context.Context, db *sql.DB) error) error {
	return expectMore(Guard{Serialize: true}.ensure(ctx, "schemaguard.Migrate", db, schema, migrate))
}

// Ensure is for migration libraries that take a lock of their own, such as
// golang-migrate and tern, and for programs that need only the schema. Otherwise
// use [Migrate]. Ensure creates schema if it does not exist and then calls migrate,
// in every process and in all of them at once.
//
// Ensure is the method of the zero [Guard]; see [Guard.Ensure] for the rest.
func Ensure(ctx context.Context, db *sql.DB, schema string, migrate func(ctx context.Context, db *sql.DB) error) error {
	return Guard{}.Ensure(ctx, db, schema, migrate)
}

// Ensure creates schema if it does not exist and then calls migrate, which may
// be nil. Unless Once, UpToDate or Serialize is set, processes call migrate without
// regard to each other: by then the lock is free and the connection back in the
// pool.
//
// Ensure blocks while others create the schema, and with Once, UpToDate or
// Serialize while others migrate. ctx is the only timeout. One connection is used at a
// time, and none is held during migrate unless it is serialized, so that a pool
// of one connection is enough.
//
// If the statements clash with those of a process that creates the schema
// without this guard, the transaction is rolled back and tried again, a few
// times, after a short random pause. Where the role may not create schemas, or
// the server is read-only, it is enough that the schema exists; Bootstrap then
// still runs, except on a read-only server.
//
// The name is quoted, and so taken literally. Ensure refuses a name that is
// empty, has a NUL byte or more than 63 bytes, or starts with pg_, before it
// sends anything: the server would refuse it, or cut it without a word.
//
// On failure migrate is not called, and the error is a [locktrace.StepError]
// that names the step. Nothing is left behind but what was committed; where a
// commit failed without an answer from the server, the error says that its
// outcome is unknown. An error of migrate itself has the step
// [locktrace.Migrate], and the schema stays.
func (g Guard) Ensure(ctx context.Context, db *sql.DB, schema string, migrate func(ctx context.Context, db *sql.DB) error) error {
	return expectMore(g.ensure(ctx, "schemaguard.Ensure", db, schema, migrate))
}

// expectMore says in the error of a sqlmock that was told of other statements what to
// do about it.
func expectMore(err error) error {
	var at *locktrace.StepError
	if !errors.As(err, &at) || at.Step == locktrace.Migrate {
		return err
	}
	if text := at.Err.Error(); !strings.Contains(text, "was not expected") && !strings.Contains(text, "actual sql") {
		return err
	}
	more := *at
	more.Err = fmt.Errorf("%w; schemaguardtest.ExpectGuard has the expectations for a mock", at.Err)
	return &more
}

func (g Guard) ensure(ctx context.Context, op string, db *sql.DB, schema string, migrate func(ctx context.Context, db *sql.DB) error) error {
	e, err := g.ensurer(ctx, op, db, schema)
	if err != nil {
		return err
	}
	e.run = migrate
	if done, err := e.upToDate(ctx, false); done || err != nil {
		return err
	}
	serialize := g.Serialize || e.once()
	if serialize && migrate != nil && e.lockDB == db && db.Stats().MaxOpenConnections == 1 { // before the schema is there without its tables
		return e.failed(locktrace.Connect, fmt.Errorf("%w, or set LockDB: it allows 1 connection, and migrate under a lock needs 2", advisorylock.ErrPoolTooSmall))
	}
	if err := e.ensureSchema(ctx); err != nil {
		return err
	}
	switch {
	case migrate == nil:
		return nil
	case serialize:
		return e.migrateAlone(ctx)
	}
	return e.migrate(ctx)
}

// ensurer checks the arguments of a call.
func (g Guard) ensurer(ctx context.Context, op string, db *sql.DB, schema string) (*ensurer, error) {
	if ctx == nil {
		panic(op + ": nil context")
	}
	if db == nil {
		panic(op + ": nil *sql.DB")
	}
	if err := g.check(schema); err != nil {
		return nil, fmt.Errorf("%s %q: %w", op, schema, err)
	}
	e := &ensurer{Guard: g, op: op, db: db, lockDB: g.LockDB, schema: schema}
	if e.lockDB == nil {
		e.lockDB = db
	}
	e.rowDB = e.lockDB
	if e.Key == 0 {
		e.Key = KeyFor(schema)
	}
	return e, nil
}

// ensurer is one call of Ensure.
type ensurer struct {
	Guard
	op     string
	db     *sql.DB
	lockDB *sql.DB
	schema string
	run    func(ctx context.Context, db *sql.DB) error
	awaits bool // it is Await that asks

	rowDB      *sql.DB // where the row of Once is asked for
	table      bool    // its table was there when it was asked last
	failedOnce bool    // and that failed
	stale      int     // so many answers were those of a pooler that mixes up statements
}

// attempts is how often the schema's transaction is tried when it clashes with
// an unguarded process.
const attempts = 5

func (e *ensurer) ensureSchema(ctx context.Context) error {
	if e.table && (e.Bootstrap == nil || e.SkipIfExists) {
		return nil
	}
	if e.SkipIfExists && e.Once == "" {
		if there, err := e.look(ctx); there || err != nil {
			return err
		}
	}
	for create, more := e.createSQL(), true; more; {
		at, err := e.transactAgain(ctx, create)
		more = false
		if refused(at, err) {
			create, more, err = e.afterRefusal(ctx, create, err)
		}
		if err != nil {
			return e.failed(at, err)
		}
	}
	return nil
}

// afterRefusal returns what is left to create, and whether anything is left to do, for
// a role or a server that was not allowed to create all of it.
func (e *ensurer) afterRefusal(ctx context.Context, create string, refusal error) (rest string, more bool, err error) {
	there, err := e.look(ctx)
	switch table := e.createOnceSQL(); {
	case err != nil:
		return "", false, fmt.Errorf("%w; and looking whether the schema is there: %w", refusal, err)
	case !there:
		return "", false, fmt.Errorf("the schema does not exist, and %s: %w", advice(refusal), refusal)
	case readOnly(refusal):
		return "", false, nil
	case !e.table && table != "" && create != table:
		return table, true, nil // the schema is there, and this role may create tables in it
	}
	return "", e.Bootstrap != nil, nil // it is there, and this role may do the rest
}

// transactAgain is transact, tried again after a clash.
func (e *ensurer) transactAgain(ctx context.Context, create string) (at locktrace.Step, err error) {
	for try := 1; ; try++ {
		at, err = e.transact(ctx, create)
		if !clash(at, err) || try == attempts {
			return at, err
		}
		if !waiting.Pause(ctx, time.Duration(try)*50*time.Millisecond) {
			return at, bounded.Ended(ctx, err)
		}
	}
}

// transact runs the schema's transaction, and says which step an error is of.
func (e *ensurer) transact(ctx context.Context, create string) (locktrace.Step, error) {
	var at locktrace.Step
	var fnErr error
	err := bridge.WithXactLock(ctx, e.call(locktrace.CreateSchema, e.Key), func(ctx context.Context, tx *sql.Tx) error {
		if create != "" {
			at = locktrace.CreateSchema
			fnErr = e.step(ctx, at, func(ctx context.Context) error {
				return bounded.Do(ctx, func() error {
					_, err := tx.ExecContext(ctx, create)
					return err
				})
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

// look checks whether the schema is there, outside any transaction: lib/pq cannot
// begin one on a standby.
func (e *ensurer) look(ctx context.Context) (there bool, err error) {
	var conn *bounded.Conn
	err = e.step(ctx, locktrace.Connect, func(ctx context.Context) error {
		return e.patiently(ctx, func(ctx context.Context) (err error) {
			conn, err = bounded.Open(ctx, e.lockDB)
			return err
		})
	})
	if err != nil {
		return false, e.failed(locktrace.Connect, err)
	}
	err = e.step(ctx, locktrace.Look, func(ctx context.Context) error {
		rows, err := conn.Exec(ctx, e.lookSQL())
		if sqlstate.Lost(err) { // and other connections of the pool, perhaps, with it
			_ = conn.Release(ctx)
			rows, err = bounded.Exec(ctx, e.lockDB, e.lookSQL())
		}
		there = rows == 1
		return err
	})
	_ = e.step(ctx, locktrace.Release, conn.Release)
	return there, e.failed(locktrace.Look, err)
}

// migrate calls migrate, unless the steps before it took until the end of ctx:
// under a lock that may mean that the lock is lost.
func (e *ensurer) migrate(ctx context.Context) error {
	if ctx.Err() != nil {
		return e.failed(locktrace.Migrate, fmt.Errorf("not called: %w", bounded.Ended(ctx, ctx.Err())))
	}
	err := e.step(ctx, locktrace.Migrate, func(ctx context.Context) error { return e.run(ctx, e.db) })
	return e.failed(locktrace.Migrate, err)
}

// step runs fn as one traced step of its own, outside the lockers'.
func (e *ensurer) step(ctx context.Context, s locktrace.Step, fn func(ctx context.Context) error) error {
	work := locktrace.CreateSchema
	switch s {
	case locktrace.UpToDate, locktrace.Migrate, locktrace.Await:
		work = locktrace.Migrate
	}
	return step.Do(ctx, e.Trace, locktrace.Event{Step: s, For: work, Key: int64(e.Key), Name: e.schema}, fn)
}

// call is a lock of package advisorylock whose steps are all for work.
func (e *ensurer) call(work locktrace.Step, key advisorylock.Key) bridge.Call {
	return bridge.Call{Op: e.op, DB: e.lockDB, Key: int64(key), Name: e.schema, TTL: e.TTL, Trace: e.Trace, For: work}
}

// failed returns err, if there is one, as the error of a step.
func (e *ensurer) failed(at locktrace.Step, err error) error {
	if err == nil {
		return nil
	}
	if shared(err) {
		err = fmt.Errorf("%w; all schemas share extensions, roles, databases and publications: create them under one key in all programs", err)
	}
	return &locktrace.StepError{Op: e.op, Name: e.schema, Step: at, Err: err}
}

// shared reports whether err is a clash on something that the lock of one schema cannot
// guard, since programs with other schemas create it as well.
func shared(err error) bool {
	index := sqlstate.CatalogIndex(err)
	return slices.ContainsFunc([]string{"pg_extension_", "pg_authid_", "pg_database_", "pg_publication_"},
		func(catalog string) bool { return strings.HasPrefix(index, catalog) })
}

// clash reports whether err comes from another session that did the same at the
// same time, without the lock.
func clash(at locktrace.Step, err error) bool {
	if at != locktrace.CreateSchema && at != locktrace.Bootstrap {
		return false
	}
	switch sqlstate.Of(err) {
	case "42P06", "42P07", "42710": // duplicate schema, table, object
		return true
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	}
	// A unique_violation is a clash on a catalog, and none on a user's table.
	return sqlstate.CatalogIndex(err) != "" || sqlstate.Concurrent(err)
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
	case locktrace.Lock: // other drivers come as far as the lock, which a standby has none of
		return errors.Is(err, advisorylock.ErrUnsupported)
	}
	return false
}

func readOnly(err error) bool {
	code := sqlstate.Of(err)
	return code == "25006" || code == "0A000" || errors.Is(err, advisorylock.ErrUnsupported)
}

func advice(err error) string {
	if readOnly(err) {
		return "this server or session is read-only: create it on the primary first, or lift default_transaction_read_only"
	}
	return "this role may not create it: GRANT CREATE ON DATABASE to it, or create the schema once as another role"
}
