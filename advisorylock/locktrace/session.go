package locktrace

import (
	"fmt"
	"strings"
	"time"

	"github.com/bootlock/bootlock/internal/printable"
)

// Session is one server session that holds an advisory lock or waits for it,
// as pg_locks and pg_stat_activity show it. Fields that the asking role may not
// see are zero; PostgreSQL shows them to members of pg_read_all_stats and to
// the session's own role.
type Session struct {
	PID         int       `json:"pid"`         // of the server process; behind a pooler, of the pooled one
	Application string    `json:"application"` // application_name
	User        string    `json:"user"`
	Client      string    `json:"client"`  // address and port; "local" for a Unix socket
	State       string    `json:"state"`   // such as "idle in transaction"
	Since       time.Time `json:"since"`   // start of its transaction, which takes the lock first
	Query       string    `json:"query"`   // the last or current statement
	Granted     bool      `json:"granted"` // it has the lock, and not only for the moment of a poll

	// BlockedBy lists the PIDs of the sessions that a session with the lock itself
	// waits for, such as "4711, 4712"; 0 is a prepared transaction. The session of a
	// lease only idles: what the work of its holder waits for, over other connections,
	// does not show here.
	BlockedBy string `json:"blocked_by,omitempty"`
}

// TerminateSQL returns the statement that ends the session and so frees its
// lock. Running it takes membership in pg_signal_backend or in the session's
// own role.
func (s Session) TerminateSQL() string {
	return fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(%d)", s.PID)
}

// String returns the session in one line, without its query. Names are those that
// others gave; what could steer a terminal in them is shown as an underscore.
func (s Session) String() string {
	var about []string
	for _, part := range []struct{ label, value string }{
		{"", s.Application}, {"user ", s.User}, {"from ", s.Client}, {"", s.State},
	} {
		if part.value != "" {
			about = append(about, part.label+printable.Text(part.value, '_', ""))
		}
	}
	if !s.Since.IsZero() {
		about = append(about, "since "+s.Since.Format(time.RFC3339))
	}
	if s.BlockedBy != "" {
		about = append(about, "itself waiting for pid "+s.BlockedBy)
	}
	if len(about) == 0 {
		return fmt.Sprintf("pid %d", s.PID)
	}
	return fmt.Sprintf("pid %d (%s)", s.PID, strings.Join(about, ", "))
}
