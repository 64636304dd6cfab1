package advisorylock

import (
	"database/sql"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/bootlock/bootlock/internal/fence"
	"github.com/bootlock/bootlock/internal/printable"
	"github.com/bootlock/bootlock/internal/room"
)

// The statements are literal and go through Exec without arguments: that is one
// round trip with every driver, prepares nothing, and leaves no snapshot behind
// while the transaction idles. With the key as $1, or by a query, pgx and lib/pq
// keep one, and every CREATE INDEX CONCURRENTLY in the database waits for it.
//
// pg_catalog. stands in front of functions, and OPERATOR(pg_catalog.…) around
// operators, since one of that name on the search_path would be called instead,
// and lock nothing.
//
// What a statement found out is the number of rows that it affects: Exec returns
// nothing else. See [room.Granted].

// statements is the SQL of one lock.
type statements struct {
	key    Key
	shared bool
	lease  bool          // the transaction does nothing but hold the lock
	label  string        // a comment that says what a lease is for
	ttl    time.Duration // the server's limit for an idle transaction; zero leaves it alone
	fence  fence.Lease   // of the grant to come, if it is a lease
	plain  bool          // the role has no plpgsql
}

const (
	defaultTTL = 30 * time.Second
	minTTL     = time.Second
	maxTTL     = math.MaxInt32 * time.Millisecond // what the server's setting takes
)

func (l Locker) statements(db *sql.DB, key Key, lease bool) *statements {
	s := &statements{key: key, shared: l.Shared, lease: lease}
	switch {
	case l.TTL != 0:
		s.ttl = min(max(l.TTL, minTTL), maxTTL)
	case lease:
		s.ttl = defaultTTL
	}
	if lease {
		if l.Name != "" {
			s.label = "/* bootlock: " + comment(l.Name) + " */ "
		}
		s.fence = fence.New(int64(key), l.Shared, s.ttl, fence.Draw(db))
	}
	return s
}

// gates are the keys of the fences that a lease waits for.
func (s *statements) gates() []Key {
	var keys []Key
	if s.lease {
		for _, gate := range s.fence.Gates() {
			keys = append(keys, Key(gate))
		}
	}
	return keys
}

// lock calls a function of the family that the lock is of.
func (s *statements) lock(try bool) string {
	name := "pg_advisory_xact_lock"
	if try {
		name = "pg_try_advisory_xact_lock"
	}
	if s.shared {
		name += "_shared"
	}
	return fmt.Sprintf("pg_catalog.%s(%v)", name, s.key)
}

// peek says whether the lock is free, or could be shared, outside any
// transaction: it is one round trip, and for no longer does a pooler's connection
// serve it. It takes the lock in shared mode, for itself only, so that those who
// peek do not see each other.
func (s *statements) peek() string {
	return rows(fmt.Sprintf("CASE WHEN pg_catalog.pg_try_advisory_xact_lock_shared(%v) THEN %d ELSE %d END", s.key, room.Granted, room.Refused))
}

// ask takes the lock if it is free.
//
// The lock that a transaction holds it may take again at once, so that the first
// form, which calls both functions, does not block. It does not simply block, as
// its readers may expect, because nothing but the client's own cancel would end
// that: a client that is killed, or sits behind a proxy that drops cancels,
// would leave a waiter with a snapshot on the server.
func (s *statements) ask() string {
	if !s.lease {
		return s.settings() + rows(fmt.Sprintf("CASE WHEN %s THEN (SELECT 1 FROM (SELECT %s) taken) ELSE %d END",
			s.lock(true), s.lock(false), room.Refused))
	}
	if s.plain {
		return s.settings() + rows(fmt.Sprintf("CASE WHEN %s THEN CASE WHEN %s THEN (SELECT 1 FROM (SELECT %s) taken) ELSE %d END ELSE %d END",
			s.lock(true), s.fence.TakeSQL(), s.lock(false), room.Refused, room.Refused))
	}
	return s.settings() + do("", "IF "+s.lock(true)+" THEN x := "+s.lock(false)+"; "+s.fence.TryDrainSQL("answer := 1; ")+"END IF; ")
}

// block takes the lock, and blocks for it for a burst. If that was in vain, the
// answer comes with the mark of the session.
//
// A bare lock_timeout would do to end a burst, were it not for the ERROR line in
// the server's log at each expiry. The DO block catches it, so that its
// subtransaction alone is rolled back; the lock, if it was granted, stays.
func (s *statements) block(burst time.Duration) string {
	lift, restore := s.timeouts()
	return s.settings() + lift + do("mark pg_catalog.int8 := 0; ", s.wait(burst, "", findMark)+restore+addMark)
}

// blockIfOwn is block for a waiter that has waited for long enough to look first
// whether it is in somebody's way. own is the mark of a session that nobody else
// has used since; the answer comes with the mark that was found.
func (s *statements) blockIfOwn(waited, burst time.Duration, own int64) string {
	lift, restore := s.timeouts()
	stranger := room.Back
	if own == unknown {
		stranger = room.Glance
	}
	mayNot := fmt.Sprintf("IF mark OPERATOR(pg_catalog.<>) %d AND answer OPERATOR(pg_catalog.=) 2 THEN answer := %d; END IF; ", own, stranger)
	return fmt.Sprintf("/* bootlock: %d ms for %s */ ", waited.Milliseconds(), s.wish()) + s.settings() + lift +
		do("mark pg_catalog.int8; older pg_catalog.int8; short boolean; cramped boolean; ", findMark+"IF NOT "+s.lock(true)+" THEN "+s.lookAround(waited)+mayNot+"END IF; "+
			fmt.Sprintf("IF answer OPERATOR(pg_catalog.=) %d THEN %s END IF; ", room.Refused, s.wait(burst, s.letPass(waited), ""))+restore+addMark)
}

// doBlock is how do begins.
const doBlock = "DO $bootlock$"

// do runs a block of plpgsql, and affects as many rows as its variable answer
// says in the end. x is for results that nobody needs: an assignment costs the
// server much less than PERFORM does.
func do(declare, block string) string {
	return doBlock + " DECLARE answer pg_catalog.int4 := " + strconv.Itoa(room.Refused) + "; x pg_catalog.text; " + declare + " BEGIN " + block +
		"x := pg_catalog.set_config('bootlock.answer', answer::pg_catalog.text, true); END $bootlock$; " +
		rows("pg_catalog.current_setting('bootlock.answer')::pg_catalog.int4")
}

// marks is how many marks there are, from 1. The mark of a transaction is the sum
// of its server process and its number in that, the second half of its virtual
// transaction ID ("pg_locks" in the manual, 54.12): the next transaction of the
// same session has the next one. If others have used the session in between, as
// they do behind a pooler, it is any other, most of the time.
const marks = 32

const findMark = `SELECT (pg_catalog.split_part(l.virtualtransaction, '/', 2)::pg_catalog.int8 OPERATOR(pg_catalog.+) l.pid) OPERATOR(pg_catalog.%) 32 OPERATOR(pg_catalog.+) 1 INTO mark
    FROM pg_catalog.pg_lock_status() l WHERE l.locktype OPERATOR(pg_catalog.=) 'virtualxid' AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid(); `

// addMark makes the mark a part of the answer; see [room.Answers].
var addMark = fmt.Sprintf("answer := answer OPERATOR(pg_catalog.+) (%d OPERATOR(pg_catalog.*) mark); ", room.Answers)

// wait blocks for the lock for a burst, in a DO block. A transaction that has waited
// in vain may be idle for no longer than that: its client, if it is still there,
// rolls it back at once, and until then a CREATE INDEX CONCURRENTLY that began
// during the burst waits for it. letPass is what it does first when it is granted,
// inVain what it does if it is not.
func (s *statements) wait(burst time.Duration, letPass, inVain string) string {
	reset := ""
	if !s.lease {
		reset = "x := pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('bootlock.lock_timeout'), true); "
	}
	draw := ""
	if s.lease {
		draw = s.fence.DrainSQL(burst)
	}
	return "BEGIN x := pg_catalog.set_config('lock_timeout', '" + milliseconds(burst) + "', true); x := " + s.lock(false) + "; " +
		letPass + draw + reset + fmt.Sprintf("answer := %d; EXCEPTION WHEN lock_not_available THEN "+
		"x := pg_catalog.set_config('idle_in_transaction_session_timeout', '%s', true); %s END; ", room.Granted, milliseconds(room.Burst), inVain)
}

// rows affects as many rows as the expression says.
func rows(expression string) string {
	return "SELECT FROM pg_catalog.generate_series(1, " + expression + ")"
}

// standers is how many waiters for one lock go on blocking: those who have waited
// longest. One is always in the server's queue then, while another begins a new
// burst, so that no newcomer gets ahead.
const standers = 3

// lookAround stands back if others have waited longer, and leaves the server as well
// if that is short of connections. Those who go on blocking stay, for they take the
// lock over at once when it is free, unless hardly a connection is left. Whoever
// wants the lock for itself is never behind those who share it, and they stay
// behind the first of those: else it would never find the lock free.
func (s *statements) lookAround(waited time.Duration) string {
	most := standers
	if s.shared {
		most = 1
	}
	return s.look(waited) + fmt.Sprintf("IF older OPERATOR(pg_catalog.>=) %d THEN answer := CASE WHEN short THEN %d ELSE %d END; ELSIF cramped THEN answer := %d; END IF; ",
		most, room.Leave, room.Back, room.Leave)
}

// letPass gives the lock back at once if one is in the queue that has waited longer,
// by a burst at least: those who came together need no order, and those who have
// not waited for so long themselves do not ask.
// Whoever leaves the server's queue at the end of a burst comes last again, so that
// the oldest would come first by chance only. What the server's statistics said
// before the wait, it repeats within the transaction until it is told to forget it.
func (s *statements) letPass(waited time.Duration) string {
	if s.shared || waited < room.Burst {
		return ""
	}
	return "x := pg_catalog.pg_stat_clear_snapshot(); " + s.look(waited+room.Burst) + " IF older OPERATOR(pg_catalog.>) 0 THEN RAISE lock_not_available; END IF; "
}

// wish says what a waiter wants. Those who want the lock for themselves
// recognise each other by it.
func (s *statements) wish() string {
	if s.shared {
		return s.key.String() + ", shared"
	}
	return s.exclusively()
}

func (s *statements) exclusively() string { return s.key.String() + ", exclusive" }

// look counts the sessions of this role in this database that block for this
// lock and have waited longer, and says whether a limit on the number of
// connections is near: short is that less than a quarter of it is left, cramped
// that it is fewer than three. A role sees this much of its own sessions, and of
// others that they exist ("Monitoring Database Activity" in the manual, 28.2).
func (s *statements) look(waited time.Duration) string {
	me := regexp.QuoteMeta(s.exclusively())
	return fmt.Sprintf(`SELECT pg_catalog.count(*) FILTER (WHERE s.own AND s.here AND s.blocks AND s.waited OPERATOR(pg_catalog.>) l.waited), %s, %s
      INTO older, short, cramped
      FROM (SELECT r.oid AS role, d.oid AS base, %d::pg_catalog.float8 OPERATOR(pg_catalog.+) %s AS waited,
              CASE WHEN NOT r.rolsuper AND r.rolconnlimit OPERATOR(pg_catalog.>=) 0 THEN r.rolconnlimit END AS most_own,
              CASE WHEN NOT r.rolsuper AND d.datconnlimit OPERATOR(pg_catalog.>=) 0 THEN d.datconnlimit END AS most_here,
              (pg_catalog.current_setting('max_connections')::pg_catalog.int4
                OPERATOR(pg_catalog.-) pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4)
                OPERATOR(pg_catalog.-) COALESCE(pg_catalog.current_setting('reserved_connections', true)::pg_catalog.int4, 0) AS most
            FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
            WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) l,
        LATERAL (SELECT a.usesysid OPERATOR(pg_catalog.=) l.role AS own, a.datid OPERATOR(pg_catalog.=) l.base AS here,
              COALESCE(a.wait_event OPERATOR(pg_catalog.=) 'advisory', false) AS blocks,
              pg_catalog.substring(a.query, $re$^/\* bootlock: (\d+) ms for %s \*/$re$)::pg_catalog.float8 OPERATOR(pg_catalog.+) %s AS waited
            FROM pg_catalog.pg_stat_get_activity(NULL) a WHERE a.datid IS NOT NULL AND a.usesysid IS NOT NULL) s
      GROUP BY l.most, l.most_own, l.most_here; `,
		near(func(limit string) string { return fmt.Sprintf("GREATEST(3, %s OPERATOR(pg_catalog./) 4)", limit) }),
		near(func(string) string { return "3" }),
		waited.Milliseconds(), since("pg_catalog.statement_timestamp()"), me, since("a.query_start"))
}

// near says whether fewer connections are left of one of the limits, which is null
// if there is none. OPERATOR(…) has the same precedence whatever stands in it.
func near(fewer func(limit string) string) string {
	var limits []string
	for _, l := range []struct{ most, counts string }{
		{"l.most", ""}, {"l.most_own", " FILTER (WHERE s.own)"}, {"l.most_here", " FILTER (WHERE s.here)"},
	} {
		limits = append(limits, fmt.Sprintf("COALESCE((%s OPERATOR(pg_catalog.-) pg_catalog.count(*)%s) OPERATOR(pg_catalog.<) %s, false)", l.most, l.counts, fewer(l.most)))
	}
	return strings.Join(limits, " OR ")
}

// since is a time that has passed, in milliseconds.
func since(moment string) string {
	return fmt.Sprintf("(1000 OPERATOR(pg_catalog.*) EXTRACT(EPOCH FROM (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) %s)))::pg_catalog.float8", moment)
}

// timeouts lifts the limits that others have set, for the time of one statement
// that waits: they are meant for the user's statements, which get them back as
// they were, by the end of the DO block. SET LOCAL … TO DEFAULT would lose a SET
// of the session. transaction_timeout is unknown before PostgreSQL 17, where
// setting it would be an error. A lease lifts them for good, in settings.
func (s *statements) timeouts() (lift, restore string) {
	if s.lease {
		return "", ""
	}
	const (
		keep = "pg_catalog.set_config('bootlock.%[1]s', pg_catalog.current_setting('%[1]s'), true)"
		zero = "pg_catalog.set_config('%[1]s', '0', true)"
		back = "x := pg_catalog.set_config('%[1]s', pg_catalog.current_setting('bootlock.%[1]s'), true); "
		has  = "pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL"
	)
	name := func(format, name string) string { return fmt.Sprintf(format, name) }
	lift = "SELECT " + name(keep, "lock_timeout") + ", " + name(keep, "statement_timeout") + ", " + name(zero, "statement_timeout") + ", " +
		"CASE WHEN " + has + " THEN pg_catalog.concat(" + name(keep, "transaction_timeout") + ", " + name(zero, "transaction_timeout") + ") END; "
	restore = name(back, "statement_timeout") + "IF " + has + " THEN " + name(back, "transaction_timeout") + "END IF; "
	return lift, restore
}

// settings puts the server's limits for this transaction in front of the lock,
// in the same Exec, and ends with it.
func (s *statements) settings() string {
	var b strings.Builder
	b.WriteString(s.label)
	if s.ttl > 0 {
		fmt.Fprintf(&b, "SET LOCAL idle_in_transaction_session_timeout = '%s'; ", milliseconds(s.ttl))
	}
	if s.lease {
		// Nothing else may end a lease early.
		b.WriteString("SET LOCAL statement_timeout = 0; " +
			"SELECT CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL " +
			"THEN pg_catalog.set_config('transaction_timeout', '0', true) END; ")
	}
	return b.String()
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

// beat shows the server that the holder lives. Like the lock it is literal, so
// that no snapshot stays behind.
func (s *statements) beat() string { return s.label + "SELECT 1" }

// comment makes s fit to stand in an SQL comment.
func comment(s string) string {
	return strings.NewReplacer("*", "_", "/", "_").Replace(printable.Text(s, '_', ""))
}
