package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/bootlock/bootlock/schemaguard"
)

// mode is one way to start a process.
type mode string

const (
	readme      mode = "as in its README"
	schemaFirst mode = "CREATE SCHEMA first"
	schemaOnly  mode = "Ensure"
	serialize   mode = "Serialize"
	once        mode = "UpToDate"
	blocking    mode = "pg_advisory_lock"
)

// guarded reports whether a failure in this mode is one of bootlock.
func (m mode) guarded() bool { return m == schemaOnly || m == serialize || m == once }

// searchPath is the schema that the DSN of m names.
func (m mode) searchPath() string {
	if m == readme {
		return "public"
	}
	return schema
}

const schema = "app"

// start is what each process does.
func (m mode) start(ctx context.Context, p *pool) error {
	switch m {
	case readme:
		return p.migrate(ctx, p.db)
	case schemaFirst:
		if _, err := p.db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+schema); err != nil {
			return err
		}
		return p.migrate(ctx, p.db)
	case schemaOnly:
		return schemaguard.Ensure(ctx, p.db, schema, p.migrate)
	case serialize:
		return schemaguard.Guard{Serialize: true}.Ensure(ctx, p.db, schema, p.migrate)
	case once:
		return p.guard.Ensure(ctx, p.db, schema, p.migrate)
	case blocking:
		return block(ctx, p)
	}
	return errors.New("no such mode: " + string(m))
}

// block is the obvious guard of one's own, for comparison: everything under a
// session lock that all others block on.
func block(ctx context.Context, p *pool) (err error) {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock(1)"); err != nil {
		return err
	}
	defer func() {
		_, unlockErr := conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock(1)")
		err = errors.Join(err, unlockErr)
	}()
	if _, err := conn.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+schema); err != nil {
		return err
	}
	return p.migrate(ctx, p.db)
}

// missing counts what a start should have left behind and did not. bun, for
// one, returns nil while a table is missing.
func (l library) missing(ctx context.Context, db *sql.DB) (int, error) {
	var there int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid "+
		"WHERE c.relnamespace = current_schema()::regnamespace AND coalesce(i.indisvalid, true) AND c.relname IN ("+
		literals(l.want)+")").Scan(&there)
	return len(l.want) - there, err
}
