package waiting

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

// Short reports whether err says that the server or the pooler has no connection
// to give now, or is not ready yet. Nothing has happened then, and later there
// will be one. Words alone do not count: an error of the user's own may have them.
func Short(err error) bool {
	switch sqlstate.Of(err) {
	case "53300", "57P03": // too_many_connections, cannot_connect_now
		return true
	case "08P01", "58000", "XX000": // PgBouncer and pgpool-II have no better code for it
		return slices.ContainsFunc([]string{
			"no more connections allowed",    // PgBouncer's max_client_conn, max_db_connections
			"query_wait_timeout",             // PgBouncer: no server connection in time
			"too many connections",           // PgBouncer, repeating the server
			"too many clients already",       // the server's words for 53300, repeated by a pooler
			"remaining connection slots are", // the same, for roles without a right to the last ones
			"the database system is starting up",
			"the database system is shutting down",
			"the database system is not accepting connections",
			"the database system is not yet accepting connections",
			"server login has been failing", // PgBouncer, after one of these
		}, func(words string) bool { return strings.Contains(err.Error(), words) })
	}
	return false
}

// Gone reports whether err says that a session is gone, or that a server that
// was there before cannot be reached now. A waiter has nothing to lose by it.
func Gone(err error) bool {
	return sqlstate.Lost(err) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// Stale reports whether err says that a pooler lost or mixed up a prepared statement:
// invalid_sql_statement_name, duplicate_prepared_statement. Nothing has happened then.
func Stale(err error) bool {
	code := sqlstate.Of(err)
	return code == "26000" || code == "42P05"
}

// Passes reports whether err is the end of one poll and not of the wait.
func Passes(err error) bool {
	return Short(err) || Stale(err) || Gone(err) || errors.Is(err, bounded.ErrNoReturn) || errors.Is(err, ErrSilent)
}

// silence is how long an attempt may take. A pooler may keep a BEGIN waiting for long.
const silence = 30 * time.Second

// ErrSilent says that an attempt took so long that the network must have gone silent.
var ErrSilent = errors.New("no answer from the server or pooler")

// Heard makes one attempt of a wait, and ends it if it takes too long: the waiter starts
// anew then, on another connection.
func Heard(ctx context.Context, try func(ctx context.Context) error) error {
	bound, cancel := context.WithTimeoutCause(ctx, silence, ErrSilent)
	defer cancel()
	err := try(bound)
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		return ErrSilent
	}
	return err
}
