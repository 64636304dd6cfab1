// Package sqlstate reads what PostgreSQL drivers say in their errors, without
// importing any of them.
package sqlstate

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"
)

// Of returns the five-character SQLSTATE in err's chain, or "".
//
// pgx 4 and 5 and lib/pq from 1.10 have SQLState; older lib/pq, its forks and
// what was vendored from them have Get('C'), the field's letter in the wire
// protocol ("Error and Notice Message Fields" in the PostgreSQL manual).
func Of(err error) string {
	var modern interface{ SQLState() string }
	if errors.As(err, &modern) {
		return modern.SQLState()
	}
	var legacy interface{ Get(k byte) string }
	if errors.As(err, &legacy) {
		return legacy.Get('C')
	}
	return ""
}

var catalogIndex = regexp.MustCompile(`\bpg_[a-z0-9_]+_index\b`)

// CatalogIndex returns the name of the system catalog's unique index that err
// says was violated, such as "pg_namespace_nspname_index", or "". It is read
// from the message, since pgx shows the protocol's constraint field only as a
// struct field that no interface reaches; the server does not translate names.
func CatalogIndex(err error) string {
	if Of(err) != "23505" {
		return ""
	}
	return catalogIndex.FindString(err.Error())
}

// Concurrent reports whether err is the server's internal error for two
// sessions that changed the same row of a catalog, such as two GRANTs: "tuple
// concurrently updated", which has no SQLSTATE of its own and no translation.
func Concurrent(err error) bool {
	return Of(err) == "XX000" && strings.Contains(err.Error(), "tuple concurrently")
}

// Lost reports whether err says that the session is gone: the server ended it,
// or the connection broke.
func Lost(err error) bool {
	switch code := Of(err); {
	case strings.HasPrefix(code, "08"): // connection exception
		return true
	case code == "57P01", code == "57P02", code == "57P03", // shutdown, crash, starting up
		code == "57P05",                  // idle_session_timeout
		code == "25P03", code == "25P04": // idle_in_transaction_session_timeout, transaction_timeout
		return true
	case code != "":
		return false
	}
	for _, gone := range []error{
		driver.ErrBadConn, sql.ErrConnDone, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed,
		syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	// pgx words a connection that it closed itself, after a cancelled context
	// or a FATAL error, without any sentinel.
	return err != nil && strings.Contains(err.Error(), "conn closed")
}

// RolledBack reports whether err is the server's answer to a COMMIT that it did
// not carry out, or a driver's word for one that ended as a ROLLBACK: nothing was
// committed. 08006 and the like, and 40003, leave that open.
func RolledBack(err error) bool {
	if code := Of(err); code != "" {
		return !Lost(err) && code != "40003" // statement_completion_unknown
	}
	if err == nil {
		return false
	}
	// A COMMIT of a transaction that had failed is answered by ROLLBACK, which
	// pgx and lib/pq report each in words of their own.
	text := err.Error()
	return strings.Contains(text, "commit unexpectedly resulted in rollback") ||
		strings.Contains(text, "Could not complete operation in a failed transaction") ||
		strings.Contains(text, "unexpected command tag ROLLBACK")
}
