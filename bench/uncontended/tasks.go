package uncontended

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/schemaguard"
)

// group is tasks that are compared with each other. The first is the floor.
type group struct {
	name    string
	tasks   []task
	onePool bool // so that the same session of the server serves all
}

type task struct {
	name        string
	module      string
	own, floor  bool
	onlyOn      string // a driver
	connections int
	open        func(ctx context.Context, db *sql.DB, dsn string) (opened, error)
}

// Names of groups and tasks that the report asks for.
const (
	Lock      = "lock"
	Schema    = "lock and schema"
	Cold      = "cold start"
	Warm      = "warm start"
	Control   = "the same by hand, again"
	Ensure    = "bootlock, Ensure"
	Skip      = "bootlock, Ensure with SkipIfExists"
	Migrate   = "bootlock, Migrate"
	UpToDate  = "bootlock, UpToDate"
	Data      = "DBOS, MigrateDataSource"
	InOneXact = "by hand, in one transaction"
)

func groups() []group {
	return []group{lockAlone(), lockAndSchema(), start(Cold, true), start(Warm, false)}
}

// lockAlone is lock, nothing, unlock.
func lockAlone() group {
	g := group{name: Lock}
	for _, p := range peers.All() {
		g.tasks = append(g.tasks, task{
			name: p.Name, module: p.Module, own: p.Own, floor: p.Name == peers.ByHand, onlyOn: p.OnlyOn, connections: 2,
			open: func(ctx context.Context, db *sql.DB, _ string) (opened, error) {
				lock, closed, err := p.Open(ctx, db)
				return opened{run: func(ctx context.Context) error { return lock(ctx, nothing) }, close: closed}, err
			},
		})
	}
	return g
}

func nothing(context.Context) error { return nil }

// lockAndSchema is the statements that the library sends when it creates a schema,
// by hand, by WithXactLock, and by hand once more: how far the ratio of that is from 1
// is how far the others can be trusted.
func lockAndSchema() group {
	create := func(name string, own bool) task {
		return task{name: name, own: own, floor: !own, connections: 1, open: func(ctx context.Context, db *sql.DB, _ string) (opened, error) {
			if own {
				return running(func(ctx context.Context) error { return withXactLock(ctx, db) }), nil
			}
			return running(func(ctx context.Context) error { return byHand(ctx, db) }), nil
		}}
	}
	return group{name: Schema, onePool: true, tasks: []task{create(peers.ByHand, false), create(peers.XactLock, true), create(Control, false)}}
}

func running(run func(ctx context.Context) error) opened {
	return opened{run: run, close: func() error { return nil }}
}

const createSchema = "CREATE SCHEMA IF NOT EXISTS app"

// start is what a process does at its start, where the schema is not there yet, or is.
func start(name string, cold bool) group {
	before := func(db *sql.DB) func(ctx context.Context) error {
		if cold {
			return drop(db)
		}
		return nil
	}
	guarded := func(name string, connections int, ensure func(ctx context.Context, db *sql.DB) error) task {
		return task{name: name, own: true, connections: connections, open: func(_ context.Context, db *sql.DB, _ string) (opened, error) {
			o := running(func(ctx context.Context) error { return ensure(ctx, db) })
			o.before = before(db)
			return o, nil
		}}
	}
	hand := task{name: InOneXact, floor: true, connections: 1, open: func(_ context.Context, db *sql.DB, _ string) (opened, error) {
		o := running(func(ctx context.Context) error { return byHand(ctx, db) })
		o.before = before(db)
		return o, nil
	}}
	g := group{name: name, tasks: []task{
		hand,
		guarded(Ensure, 1, func(ctx context.Context, db *sql.DB) error { return schemaguard.Ensure(ctx, db, "app", nil) }),
		guarded(Skip, 1, func(ctx context.Context, db *sql.DB) error {
			return schemaguard.Guard{SkipIfExists: true}.Ensure(ctx, db, "app", nil)
		}),
		guarded(Migrate, 2, func(ctx context.Context, db *sql.DB) error { return schemaguard.Migrate(ctx, db, "app", migrate) }),
		guarded(UpToDate, 2, func(ctx context.Context, db *sql.DB) error {
			return schemaguard.Guard{UpToDate: upToDate}.Ensure(ctx, db, "app", migrate)
		}),
	}}
	data := task{name: Data, module: "github.com/dbos-inc/dbos-transact-golang", onlyOn: "pgx", connections: 1}
	data.open = func(ctx context.Context, db *sql.DB, dsn string) (opened, error) {
		o, err := openDBOS(ctx, dsn)
		o.before = before(db)
		return o, err
	}
	g.tasks = append(g.tasks, data)
	return g
}

// migrate creates one table, if it is not there.
func migrate(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.version AS SELECT 1 AS version")
	return err
}

func upToDate(ctx context.Context, db *sql.DB) (done bool, err error) {
	err = db.QueryRowContext(ctx, "SELECT version = 1 FROM app.version").Scan(&done)
	return done, err
}

// openDBOS has DBOS create the schema of a data source, which it does in one
// transaction under pg_advisory_xact_lock. That of its system database has no lock.
func openDBOS(ctx context.Context, dsn string) (opened, error) {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return opened{}, err
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	return opened{
		run: func(ctx context.Context) error {
			return dbos.MigrateDataSource(ctx, pool, dbos.WithMigrateSchema("app"), dbos.WithMigrateLogger(quiet))
		},
		close: func() error { pool.Close(); return nil },
	}, nil
}

var lockByHand = fmt.Sprintf("SELECT pg_catalog.pg_advisory_xact_lock(%d)", peers.Key)

func byHand(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after the commit there is nothing to roll back
	if _, err := tx.ExecContext(ctx, lockByHand); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, createSchema); err != nil {
		return err
	}
	return tx.Commit()
}

func withXactLock(ctx context.Context, db *sql.DB) error {
	return advisorylock.WithXactLock(ctx, db, peers.Key, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, createSchema)
		return err
	})
}
