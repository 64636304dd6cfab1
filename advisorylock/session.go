package advisorylock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/fence"
)

// Session is one server session that holds a lock or waits for it. It is
// declared in locktrace, whose hooks show it too.
type Session = locktrace.Session

// Sessions returns the sessions that hold key in the database of db, and those that
// wait for it: holders first, each group by start of its transaction. It blocks for a
// connection and for one look at pg_locks, takes no lock, and needs no right
// beyond CONNECT; what the role may not see of other sessions stays zero, and so does
// what is there of a prepared transaction.
//
// A waiter has a session only while it stands in the server's queue or polls: not while
// it waits inside its process, nor between two bursts or polls.
func Sessions(ctx context.Context, db *sql.DB, key Key) ([]Session, error) {
	checkArgs("Sessions", ctx, db, false)
	found, err := look(ctx, db, key)
	if err != nil {
		return nil, fmt.Errorf("advisorylock.Sessions %v: %w", key, err)
	}
	return append(found[has], found[waits]...), nil
}

// role is what a session is to a lock.
type role int

const (
	has   role = iota // it has the lock for more than a poll
	waits             // it stands in the server's queue, or polls
	gated             // it has a transaction that a lease has fenced
)

// look queries on a connection of its own. It returns the sessions at the key and at the
// gate of its leases, as of one moment.
//
// pgx prepares every query, by default under a name made from its text, and
// behind PgBouncer in transaction mode that fails in two ways: the statement is
// prepared on one server connection and executed on another, or its name exists
// there already, from another client. Hence the transaction, which stays on one
// server connection, and a text that is never the same twice.
func look(ctx context.Context, db *sql.DB, key Key) (map[role][]Session, error) {
	conn, err := bounded.Open(ctx, db)
	if err != nil {
		return nil, err
	}
	defer conn.Release(ctx) //nolint:errcheck // nothing was changed
	// Read-only, since on a standby lib/pq cannot begin anything else.
	if err := conn.Begin(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: true}); err != nil {
		return nil, err
	}
	defer conn.Rollback(ctx)      //nolint:errcheck // nothing was changed
	found := map[role][]Session{} // not the result: a call that is abandoned may go on
	err = conn.Query(ctx, sessionsSQL(key, Key(fence.New(int64(key), 0, rand.Uint32).Gate())), func(rows *sql.Rows) error {
		var s Session
		var since float64
		var isKey bool
		var host string
		var port int
		err := rows.Scan(&s.PID, &s.Application, &s.User, &host, &port, &s.State, &since, &s.Query, &s.Granted, &s.BlockedBy, &isKey)
		s.Client = client(host, port)
		if s.PID == 0 {
			s.State = "prepared transaction"
		}
		if since > 0 {
			s.Since = time.UnixMicro(int64(since * 1e6))
		}
		as := gated
		if isKey {
			as = roleOf(&s)
		}
		found[as] = append(found[as], s)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// roleOf tells a session that has the lock from one that waits, and says in s.Granted
// that a poll waits as well. pg_locks and pg_stat_activity are not read at the same
// instant: the first may show a lock whose transaction is over in the second.
func roleOf(s *Session) role {
	if (s.State == "active" || s.State == "idle") && strings.Contains(s.Query, "pg_catalog.pg_try_advisory_xact_lock") {
		s.Granted = false
	}
	if s.Granted {
		return has
	}
	return waits
}

// looks are those under way: the callers of one key in the process share one.
var looks = struct {
	sync.Mutex
	of map[lookKey]*sharedLook
}{of: map[lookKey]*sharedLook{}}

type lookKey struct {
	db  *sql.DB
	key Key
}

type sharedLook struct {
	done    chan struct{}
	holders []Session
	err     error
}

// lookUp returns the sessions that keep the lock from its waiters: those that have it,
// or else those with transactions that an earlier lease has fenced.
func lookUp(ctx context.Context, db *sql.DB, key Key) ([]Session, error) {
	at := lookKey{db, key}
	looks.Lock()
	l := looks.of[at]
	if l != nil {
		looks.Unlock()
		if _, ok := bounded.Until(ctx, l.done); !ok {
			return nil, ctx.Err()
		}
		if errors.Is(l.err, context.Canceled) || errors.Is(l.err, context.DeadlineExceeded) { // with the wait of the caller that began the look
			return lookUp(ctx, db, key)
		}
		return slices.Clone(l.holders), l.err // a hook may sort its own
	}
	l = &sharedLook{done: make(chan struct{})}
	looks.of[at] = l
	looks.Unlock()
	defer func() {
		looks.Lock()
		defer looks.Unlock()
		delete(looks.of, at)
		close(l.done)
	}()
	found, err := look(ctx, db, key)
	l.holders, l.err = holders(found), err
	return l.holders, l.err
}

// holders returns the sessions that have the lock, or if there are none, those with a
// fenced transaction. While there are some, a session that tried to take a lease, and has
// sent nothing since but the end of that, waits for them.
func holders(found map[role][]Session) []Session {
	if len(found[gated]) == 0 {
		return found[has]
	}
	sure := slices.DeleteFunc(found[has], func(s Session) bool {
		return s.State == "idle" || strings.Contains(s.Query, "pg_catalog.pg_lock_status")
	})
	if len(sure) == 0 {
		return found[gated]
	}
	return sure
}

// client is what pg_stat_activity says of one: over a Unix socket its port is -1.
func client(host string, port int) string {
	switch {
	case host != "":
		return fmt.Sprintf("%s:%d", host, port)
	case port < 0:
		return "local"
	}
	return ""
}

// sessionsSQL is the query of Sessions. A bigint key shows in pg_locks as its
// high half in classid, its low half in objid, and objsubid 1. Operators are
// qualified like functions, for the same reason. A session that the role may
// not see has no state, and a text in place of its query. pg_blocking_pids stops
// the server's lock manager for a moment: it is asked of a holder that waits only.
func sessionsSQL(key, gate Key) string {
	is := make([]string, 0, 2)
	for _, k := range []Key{key, gate} {
		is = append(is, fmt.Sprintf("l.classid OPERATOR(pg_catalog.=) '%d'::pg_catalog.oid AND l.objid OPERATOR(pg_catalog.=) '%d'::pg_catalog.oid",
			uint32(uint64(k)>>32), uint32(uint64(k)))) //nolint:gosec // the two halves of the bits
	}
	return strings.ReplaceAll(fmt.Sprintf(`/* %08x */
 SELECT COALESCE(l.pid, 0), COALESCE(a.application_name, ''), COALESCE(a.usename::pg_catalog.text, ''),
 COALESCE(pg_catalog.host(a.client_addr), ''), COALESCE(a.client_port, 0),
 COALESCE(a.state, ''), COALESCE(EXTRACT(EPOCH FROM a.xact_start), 0)::pg_catalog.float8,
 CASE WHEN a.state IS NULL THEN '' ELSE a.query END, l.granted,
 CASE WHEN l.granted AND a.wait_event_type OPERATOR(pg_catalog.=) 'Lock' THEN pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ', ') ELSE '' END,
 l.classid OPERATOR(pg_catalog.=) '%d'::pg_catalog.oid
 FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
 WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.objsubid OPERATOR(pg_catalog.=) 1 AND (%s)
 AND l.database OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
 ORDER BY a.xact_start, l.pid`,
		rand.Uint32(), uint32(uint64(key)>>32), strings.Join(is, " OR ")), "\n ", " ") //nolint:gosec // the upper half of the bits
}
