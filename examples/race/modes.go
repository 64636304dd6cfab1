package main

import (
	"context"
	"database/sql"
	"errors"
	"strings"

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
)

// guarded reports whether a failure in this mode is one of bootlock.
func (m mode) guarded() bool { return m == schemaOnly || m == serialize || m == once }

const schema = "app"

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
	}
	return errors.New("no such mode: " + string(m))
}

// missing counts what a start should have left behind and did not. bun, for
// one, returns nil while a table is missing.
func (l library) missing(ctx context.Context, db *sql.DB) (int, error) {
	var there int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid "+
		"WHERE c.relnamespace = current_schema()::regnamespace AND coalesce(i.indisvalid, true) AND c.relname IN ("+
		"'"+strings.Join(l.want, "', '")+"')").Scan(&there)
	return len(l.want) - there, err
}
