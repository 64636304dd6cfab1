package waiting

import (
	"context"
	"database/sql"

	"github.com/bootlock/bootlock/internal/bounded"
)

// ShortSQL is an expression that says whether less than a quarter is left of the
// connections that the server, the role or the database allows. A role sees of
// sessions that are not its own that they exist ("The Cumulative Statistics System"
// in the manual).
const ShortSQL = `EXISTS (SELECT FROM pg_catalog.pg_roles r, pg_catalog.pg_database d, pg_catalog.pg_stat_get_activity(NULL) a ` +
	`WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND a.usesysid IS NOT NULL ` +
	`GROUP BY r.oid, r.rolconnlimit, d.oid, d.datconnlimit HAVING 4 OPERATOR(pg_catalog.*) GREATEST(` +
	`pg_catalog.count(*)::pg_catalog.float8 OPERATOR(pg_catalog./) pg_catalog.current_setting('max_connections')::pg_catalog.float8, ` +
	`pg_catalog.count(*) FILTER (WHERE a.usesysid OPERATOR(pg_catalog.=) r.oid)::pg_catalog.float8 OPERATOR(pg_catalog./) CASE WHEN r.rolconnlimit OPERATOR(pg_catalog.>) 0 THEN r.rolconnlimit END, ` +
	`pg_catalog.count(*) FILTER (WHERE a.datid OPERATOR(pg_catalog.=) d.oid)::pg_catalog.float8 OPERATOR(pg_catalog./) CASE WHEN d.datconnlimit OPERATOR(pg_catalog.>) 0 THEN d.datconnlimit END) OPERATOR(pg_catalog.>) 3)`

// Count reports whether connections are short. If that cannot be found out, they are
// not.
func Count(ctx context.Context, db *sql.DB) (short bool) {
	n, err := bounded.Exec(ctx, db, "SELECT 1 WHERE "+ShortSQL)
	return Short(err) || err == nil && n == 1
}

// Leave closes an idle connection of db, which the pool would keep.
func Leave(ctx context.Context, db *sql.DB) {
	if db.Stats().Idle == 0 {
		return
	}
	if conn, err := bounded.Open(ctx, db); err == nil {
		conn.Distrust()
		_ = conn.Release(ctx)
	}
}
