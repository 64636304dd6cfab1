package advisorylock

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
)

// Session is one server session that holds a lock or waits for it. It is
// declared in locktrace, whose hooks show it too.
type Session = locktrace.Session

// Sessions returns who holds key in the database of db, and who waits for it:
// holders first, each group by start of its transaction. It blocks for a
// connection and for one look at pg_locks, takes no lock, and needs no right
// beyond CONNECT; what the role may not see of other sessions stays zero.
//
// A process that waits inside its own queue has no session and is not shown,
// nor is one that is between two bursts of waiting at that moment.
func Sessions(ctx context.Context, db *sql.DB, key Key) ([]Session, error) {
	checkArgs("Sessions", ctx, db)
	conn, err := bounded.Open(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("advisorylock.Sessions %v: %w", key, bounded.Ended(ctx, err))
	}
	defer conn.Release(ctx) //nolint:errcheck // nothing was changed
	sessions, _, err := sessionsOn(ctx, conn, key, nil)
	if err != nil {
		return nil, fmt.Errorf("advisorylock.Sessions %v: %w", key, bounded.Ended(ctx, err))
	}
	return sessions, nil
}

// sessionsOn asks on a connection that has no transaction open. With gates, it
// also returns the sessions that are in them or wait there, as of the same moment.
//
// pgx prepares every query, by default under a name made from its text, and
// behind PgBouncer in transaction mode that fails in two ways: the statement is
// prepared on one server connection and executed on another, or its name exists
// there already, from another client. Hence the transaction, which stays on one
// server connection, and a text that is never the same twice.
func sessionsOn(ctx context.Context, conn *bounded.Conn, key Key, gates []Key) (atKey, atGates []Session, err error) {
	// Read-only, since on a standby lib/pq cannot begin anything else.
	if err := conn.Begin(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: true}); err != nil {
		return nil, nil, err
	}
	defer conn.Rollback(ctx) //nolint:errcheck // nothing was changed
	err = conn.Query(ctx, sessionsSQL(key, gates), func(rows *sql.Rows) error {
		var s Session
		var since float64
		var isKey bool
		err := rows.Scan(&s.PID, &s.Application, &s.User, &s.Client, &s.State, &since, &s.Query, &s.Granted, &s.Shared, &isKey)
		if since > 0 {
			s.Since = time.UnixMicro(int64(since * 1e6))
		}
		if isKey {
			atKey = append(atKey, s)
		} else {
			atGates = append(atGates, s)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return atKey, atGates, nil
}

// sessionsSQL is the query of Sessions. A bigint key shows in pg_locks as its
// high half in classid, its low half in objid, and objsubid 1. Operators are
// qualified like functions, for the same reason. A session that the role may
// not see has no state, and a text in place of its query.
func sessionsSQL(key Key, gates []Key) string {
	is := make([]string, 0, 1+len(gates))
	for _, k := range append([]Key{key}, gates...) {
		is = append(is, fmt.Sprintf("(l.classid OPERATOR(pg_catalog.=) %d::pg_catalog.oid AND l.objid OPERATOR(pg_catalog.=) %d::pg_catalog.oid)",
			uint32(uint64(k)>>32), uint32(uint64(k)))) //nolint:gosec // the two halves of the bits
	}
	return fmt.Sprintf(`/* %016x */
SELECT l.pid,
       COALESCE(a.application_name, ''),
       COALESCE(a.usename::pg_catalog.text, ''),
       CASE WHEN a.client_addr IS NOT NULL THEN pg_catalog.concat(pg_catalog.host(a.client_addr), ':', a.client_port)
            WHEN a.client_port OPERATOR(pg_catalog.<) 0 THEN 'local'
            ELSE '' END,
       COALESCE(a.state, ''),
       COALESCE(EXTRACT(EPOCH FROM a.xact_start), 0)::pg_catalog.float8,
       CASE WHEN a.state IS NULL THEN '' ELSE a.query END,
       l.granted,
       l.mode OPERATOR(pg_catalog.=) 'ShareLock',
       %s
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'
  AND l.objsubid OPERATOR(pg_catalog.=) 1::pg_catalog.int2
  AND (%s)
  AND l.database OPERATOR(pg_catalog.=) (
      SELECT d.oid FROM pg_catalog.pg_database d
      WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
ORDER BY l.granted DESC, a.xact_start, l.pid`,
		rand.Uint64(), is[0], strings.Join(is, " OR "))
}
