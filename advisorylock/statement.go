package advisorylock

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// The statements are literal and go through Exec without arguments: that is one
// round trip with every driver, prepares nothing, and leaves no snapshot behind
// while the transaction idles. With the key as $1, or by a query, pgx and lib/pq
// keep one, and every CREATE INDEX CONCURRENTLY in the database waits for it.
//
// pg_catalog. stands in front since a function of that name on the search_path
// would be called instead, and lock nothing.

func (c *call) function(try bool) string {
	name := "pg_advisory_xact_lock"
	if try {
		name = "pg_try_advisory_xact_lock"
	}
	if c.Shared {
		name += "_shared"
	}
	return fmt.Sprintf("pg_catalog.%s(%v)", name, c.key)
}

// blockSQL waits on the server for as long as it takes.
func (c *call) blockSQL() string {
	return c.settings() + "SELECT " + c.function(false)
}

// trySQL affects one row if the lock was free.
func (c *call) trySQL() string {
	return c.settings() + "SELECT 1 WHERE " + c.function(true)
}

// burstSQL waits for a burst, and affects one row if the lock was granted.
//
// A bare lock_timeout would do, were it not for the ERROR line in the server's
// log at each expiry. The DO block catches it, so that its subtransaction alone
// is rolled back; the lock, if it was granted, stays.
func (c *call) burstSQL(burst time.Duration) string {
	var b strings.Builder
	b.WriteString(c.settings())
	timeouts := fmt.Sprintf("pg_catalog.set_config('lock_timeout', '%dms', true), pg_catalog.set_config('statement_timeout', '0', true); ", burst.Milliseconds())
	restore := ""
	if c.lease {
		b.WriteString("SELECT " + timeouts)
	} else {
		// The callback gets this transaction with the timeouts it would have
		// had. SET LOCAL … TO DEFAULT would lose a SET of the session.
		b.WriteString("SELECT pg_catalog.set_config('bootlock.lock_timeout', pg_catalog.current_setting('lock_timeout'), true), " +
			"pg_catalog.set_config('bootlock.statement_timeout', pg_catalog.current_setting('statement_timeout'), true), " + timeouts)
		restore = "SELECT pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('bootlock.lock_timeout'), true), " +
			"pg_catalog.set_config('statement_timeout', pg_catalog.current_setting('bootlock.statement_timeout'), true); "
	}
	b.WriteString("DO $bootlock$ BEGIN PERFORM " + c.function(false) +
		"; EXCEPTION WHEN lock_not_available THEN NULL; END $bootlock$; ")
	b.WriteString(restore)
	b.WriteString("SELECT 1 WHERE " + c.function(true))
	return b.String()
}

// settings puts the server's limits for this transaction in front of the lock,
// in the same Exec, and ends with it.
func (c *call) settings() string {
	var b strings.Builder
	b.WriteString(c.label())
	if ttl := c.ttl(); ttl > 0 {
		fmt.Fprintf(&b, "SET LOCAL idle_in_transaction_session_timeout = '%dms'; ", ttl.Milliseconds())
	}
	if c.lease {
		// Nothing else may end a lease early. transaction_timeout is unknown
		// before PostgreSQL 17, where setting it would be an error.
		b.WriteString("SET LOCAL statement_timeout = 0; " +
			"SELECT CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL " +
			"THEN pg_catalog.set_config('transaction_timeout', '0', true) END; ")
	}
	return b.String()
}

// beatSQL shows the server that the holder lives. Like the lock it is literal,
// so that no snapshot stays behind.
func (c *call) beatSQL() string { return c.label() + "SELECT 1" }

// label is a comment that says in pg_stat_activity, for as long as a lease
// lasts, what the lock is for.
func (c *call) label() string {
	if !c.lease || c.Name == "" {
		return ""
	}
	return "/* bootlock: " + comment(c.Name) + " */ "
}

// comment makes s fit to stand in an SQL comment.
func comment(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '*' || r == '/' || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, s)
}
