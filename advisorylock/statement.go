package advisorylock

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/bootlock/bootlock/internal/bridge"
	"github.com/bootlock/bootlock/internal/fence"
	"github.com/bootlock/bootlock/internal/waiting"
)

// The statements are literal and go through Exec without arguments: that is one
// round trip with every driver, prepares nothing, and leaves no snapshot behind
// while the transaction idles. With the key as $1, or by a query, pgx and lib/pq
// keep one, and every CREATE INDEX CONCURRENTLY in the database waits for it.
// Exec returns nothing but the number of rows affected, so that is the [answer].
//
// What differs from one call to the next is a constant in a SELECT, of the same type
// each time: pg_stat_statements takes these for one statement. It keeps the text of
// utility statements as it is, DO and SET among them.
//
// pg_catalog. stands in front of functions, and OPERATOR(pg_catalog.…) around
// operators, since one of that name on the search_path would be called instead,
// and lock nothing.

// takeXact takes the lock if it is free. The lock that a transaction has, it may take
// again at once: the first line, which readers of the log look for, does not block.
//
// It does not simply block, because nothing but the client's own cancel would end
// that: a client that is killed, or sits behind a proxy that drops cancels, would
// leave a waiter with a snapshot on the server.
const takeXact = `SELECT pg_catalog.pg_advisory_xact_lock({key}){idle limit}{as before}
 FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_is_in_recovery() THEN 2{in vain}
 WHEN pg_catalog.pg_try_advisory_xact_lock({key}) THEN 1 END)`

// takeLease is takeXact for a lease, which has a fence to pass. If it is granted, no
// limit of the server but the lease's own may end the transaction; that holds before it
// is granted, since a client that is frozen then has the lock as well. transaction_timeout
// is unknown before PostgreSQL 17, where setting it would be an error.
const takeLease = `SELECT {label}pg_catalog.pg_advisory_xact_lock({key}),
 pg_catalog.set_config('statement_timeout', '0', true), CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL
 THEN pg_catalog.set_config('transaction_timeout', '0', true) END
 FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_is_in_recovery() THEN 2
 WHEN pg_catalog.pg_try_advisory_xact_lock({key}) AND {limited} AND {pass} THEN 1 END)`

// freeSQL says whether the lock is free, outside any transaction. It takes the lock
// in shared mode, for itself only, so that waiters that poll do not see each other. If it
// is not free, 3 says that a holder is in need or that connections are short.
const freeSQL = `SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock_shared({key}) THEN 1
 WHEN NOT pg_catalog.pg_try_advisory_xact_lock_shared({need}) THEN 3{or short} END)`

// mayQueueSQL says whether a waiter for a lease may stand in the server's queue: its
// connection is that of the server process that the driver was told of, and there are
// connections to spare.
const mayQueueSQL = `SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) '{pid}'::pg_catalog.int8 THEN 0
 WHEN ` + waiting.ShortSQL + ` THEN 3 ELSE 1 END)`

// queueSQL stands in the server's queue for the lock, for a burst at most, or for half
// of a shorter statement_timeout: that is meant for the user's statements, and ends none
// of these.
//
// A bare lock_timeout would do to end a burst, were it not for the ERROR line in the
// server's log at each expiry. The DO block catches it, so that its subtransaction alone
// is rolled back; the lock, if it was granted, stays. After a burst in vain the
// transaction may not be idle for long: a client that is frozen then would keep every
// CREATE INDEX CONCURRENTLY that began meanwhile. So it must not take the lock after all.
const queueSQL = `SELECT pg_catalog.set_config('bootlock.k', '{key}', true), pg_catalog.set_config('bootlock.old', pg_catalog.current_setting('lock_timeout'), true),
 pg_catalog.set_config('lock_timeout', pg_catalog.concat(EXTRACT(EPOCH FROM LEAST('900ms',
 pg_catalog.substring(pg_catalog.current_setting('statement_timeout'), '[^0].*')::pg_catalog.interval OPERATOR(pg_catalog./) 2)), 's'), true){idle limit};
DO $bootlock$ DECLARE x pg_catalog.text; BEGIN
 x := pg_catalog.pg_advisory_xact_lock(pg_catalog.current_setting('bootlock.k')::pg_catalog.int8);
EXCEPTION WHEN lock_not_available THEN
 x := pg_catalog.set_config('bootlock.k', '', true);
 x := pg_catalog.set_config('idle_in_transaction_session_timeout', '1s', true);
END $bootlock$`

// burst is how long queueSQL waits. While it does, its snapshot keeps CREATE INDEX
// CONCURRENTLY and vacuum waiting. It is less than a second, so that neither
// log_lock_waits nor log_min_duration_statement = 1s writes a line.
const burst = 900 * time.Millisecond

// An answer is the result of a statement, as the number of rows that it affects. A mock
// written by hand affects one row or none.
type answer int64

const (
	taken   answer = 0 // somebody has the lock
	granted answer = 1 // the lock is there, or free
	standby answer = 2 // the server is a standby: its locks exclude no session of the primary
	short   answer = 3 // connections are short, or a holder needs one
)

// statements is the SQL of one lock.
type statements struct {
	key   Key
	lease bool          // the transaction does nothing but hold the lock
	label string        // what a lease is for, as a comment
	ttl   time.Duration // the server's limit for an idle transaction; zero leaves it alone
	fence fence.Lease   // of the grant to come, if it is a lease
}

const (
	defaultTTL = 30 * time.Second
	minTTL     = time.Second
	maxTTL     = math.MaxInt32 * time.Millisecond // what the server's setting takes
)

func newStatements(c bridge.Call, lease bool) statements {
	s := statements{key: Key(c.Key), lease: lease}
	switch {
	case c.TTL != 0:
		s.ttl = min(max(c.TTL, minTTL), maxTTL)
	case lease:
		s.ttl = defaultTTL
	}
	if !lease {
		return s
	}
	if c.Name != "" {
		s.label = "/* bootlock: " + comment(c.Name) + " */ "
	}
	s.fence = fence.New(c.Key, s.ttl, fence.Draw(c.DB))
	return s
}

// take is takeXact or takeLease. The quick form, for the first try, may miss a free
// lease where another database has one under the same key.
func (s *statements) take(quick bool) string {
	if !s.lease {
		return s.takeXact("", "")
	}
	return s.fill(takeLease, "{limited}", setIdleLimit(s.ttl)+" IS NOT NULL", "{pass}", s.fence.PassSQL(quick))
}

func (s *statements) takeXact(asBefore, inVain string) string {
	return s.fill(takeXact, "{idle limit}", idleLimit(s.ttl), "{as before}", asBefore, "{in vain}", inVain)
}

// needKey is the key that the holder of a lease takes if it gets no connection for its
// work. Waiters that find it taken keep none between two polls.
var needKey = KeyOf("bootlock/need")

// needSQL takes needKey, unless another holder has it, or a waiter polls at this moment.
var needSQL = fmt.Sprintf("SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock(%v) THEN 1 END)", needKey)

// free is freeSQL; it may also count connections.
func (s *statements) free(count bool) string {
	orShort := ""
	if count {
		orShort = " WHEN " + waiting.ShortSQL + " THEN 3"
	}
	return s.fill(freeSQL, "{need}", needKey.String(), "{or short}", orShort)
}

// queue is queueSQL. For a lease, the lock is not granted by it alone, but has to be
// taken then, and a client that does not come to it keeps it no longer than a lease.
func (s *statements) queue() string {
	if s.lease {
		return s.fill(queueSQL, "{idle limit}", idleLimit(s.ttl))
	}
	return s.fill(queueSQL, "{idle limit}", "") + ";\n" + s.takeXact(
		", pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('bootlock.old'), true)",
		" WHEN pg_catalog.current_setting('bootlock.k') OPERATOR(pg_catalog.=) '' THEN 0")
}

func mayQueue(pid int64) string {
	return strings.NewReplacer("{pid}", fmt.Sprint(pid), "\n ", " ").Replace(mayQueueSQL)
}

// beat shows the server that the holder lives. Like the lock it is literal, so
// that no snapshot stays behind.
func (s *statements) beat() string { return "SELECT " + s.label + "1" }

func (s *statements) fill(statement string, pairs ...string) string {
	return strings.NewReplacer(append(pairs, "{key}", s.key.String(), "{label}", s.label, "\n ", " ")...).Replace(statement)
}

func idleLimit(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return ", " + setIdleLimit(d)
}

func setIdleLimit(d time.Duration) string {
	return fmt.Sprintf("pg_catalog.set_config('idle_in_transaction_session_timeout', '%dms', true)", d.Milliseconds())
}

// comment makes s fit to stand in an SQL comment, in any encoding of the server. It is
// cut, to keep the statement short.
func comment(s string) string {
	ascii := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '*' || r == '/' {
			return '_'
		}
		return r
	}, s)
	return ascii[:min(len(ascii), 30)]
}
