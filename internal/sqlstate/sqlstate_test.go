package sqlstate_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

// legacyError is an error of lib/pq before 1.10 and its forks: the code is reached
// through Get only.
type legacyError struct{ code, text string }

func (e legacyError) Error() string { return e.text }

func (e legacyError) Get(k byte) string {
	if k == 'C' {
		return e.code
	}
	return ""
}

func modern(code, text string) error { return recdriver.SQLError{Code: code, Message: text} }
func legacy(code, text string) error { return legacyError{code, text} }

// Only a clash on a system catalog is the race; a 23505 on a constraint of the user's
// own is a mistake that must be reported. What pgx makes of the end of a session is a
// SQLSTATE, io.ErrUnexpectedEOF or a text; lib/pq makes driver.ErrBadConn of nearly
// everything.
func TestErrors(t *testing.T) {
	t.Parallel()
	const (
		namespace = "pg_namespace_nspname_index"
		clash     = `duplicate key value violates unique constraint "`
		updated   = "tuple concurrently updated"
	)
	boom := errors.New("boom")
	for _, tt := range []struct {
		err              error
		code, index      string
		concurrent, lost bool
	}{
		{err: nil},
		{err: boom},
		{err: modern("", "")},
		{err: legacy("42P06", ""), code: "42P06"},
		{err: fmt.Errorf("insert: %w", modern("42P06", "")), code: "42P06"},
		{err: errors.Join(boom, fmt.Errorf("x: %w", legacy("40001", ""))), code: "40001"},
		{err: errors.Join(legacy("00001", ""), modern("00002", "")), code: "00002"},

		{err: modern("23505", clash+namespace+`"`), code: "23505", index: namespace},
		{err: legacy("23505", clash+namespace+`"`), code: "23505", index: namespace},
		{err: modern("23505", clash+`pg_type_typname_nsp_index"`), code: "23505", index: "pg_type_typname_nsp_index"},
		{err: modern("23505", `doppelter Schlüsselwert verletzt Unique-Constraint »pg_namespace_nspname_index«`), code: "23505", index: namespace},
		{err: fmt.Errorf("create: %w", modern("23505", clash+namespace+`"`)), code: "23505", index: namespace},
		{err: modern("23505", clash+`users_pkey"`), code: "23505"},
		{err: modern("23505", clash+`my_pg_namespace_index"`), code: "23505"}, // a user's
		{err: modern("42P06", clash+namespace+`"`), code: "42P06"},
		{err: errors.New(clash + namespace + `"`)},

		{err: modern("XX000", updated), code: "XX000", concurrent: true},
		{err: legacy("XX000", "tuple concurrently deleted"), code: "XX000", concurrent: true},
		{err: modern("XX000", "cache lookup failed for relation 1"), code: "XX000"},
		{err: modern("23505", updated), code: "23505"},
		{err: errors.New(updated)},

		{err: modern("08006", ""), code: "08006", lost: true},
		{err: modern("08P01", ""), code: "08P01", lost: true},
		{err: modern("57P01", ""), code: "57P01", lost: true},
		{err: modern("57P02", ""), code: "57P02", lost: true},
		{err: legacy("57P03", ""), code: "57P03", lost: true},
		{err: modern("57P05", ""), code: "57P05", lost: true},
		{err: modern("25P03", ""), code: "25P03", lost: true},
		{err: modern("25P04", ""), code: "25P04", lost: true},
		{err: modern("57014", ""), code: "57014"}, // cancelled
		{err: modern("55P03", ""), code: "55P03"}, // lock timeout
		{err: modern("25P02", ""), code: "25P02"}, // aborted transaction
		{err: modern("23505", "conn closed"), code: "23505"},
		{err: fmt.Errorf("commit: %w", driver.ErrBadConn), lost: true},
		{err: sql.ErrConnDone, lost: true},
		{err: io.EOF, lost: true},
		{err: fmt.Errorf("read: %w", io.ErrUnexpectedEOF), lost: true},
		{err: net.ErrClosed, lost: true},
		{err: &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, lost: true},
		{err: syscall.EPIPE, lost: true},
		{err: syscall.ECONNABORTED, lost: true},
		{err: errors.New("failed to deallocate: conn closed"), lost: true}, // pgx
		{err: sql.ErrTxDone},
		{err: context.DeadlineExceeded},
	} {
		code, index, concurrent, lost := sqlstate.Of(tt.err), sqlstate.CatalogIndex(tt.err), sqlstate.Concurrent(tt.err), sqlstate.Lost(tt.err)
		if code != tt.code || index != tt.index || concurrent != tt.concurrent || lost != tt.lost {
			t.Errorf("%v: got %q, %q, concurrent %t, lost %t; want %q, %q, %t, %t", tt.err, code, index, concurrent, lost, tt.code, tt.index, tt.concurrent, tt.lost)
		}
	}
}

// Whatever a server, a pooler or a driver says, an answer is never taken for both:
// the loss of the session, which leaves a commit in doubt, and a commit that was
// refused.
func FuzzErrors(f *testing.F) {
	for _, code := range []string{"", "23505", "XX000", "08006", "08P01", "57P01", "40003", "25P02", "x", "0"} {
		for _, text := range []string{
			"", "conn closed", "tuple concurrently updated", `duplicate key value violates unique constraint "pg_namespace_nspname_index"`,
			"commit unexpectedly resulted in rollback", "pq: Could not complete operation in a failed transaction", "unexpected command tag ROLLBACK",
		} {
			f.Add(code, text)
		}
	}
	f.Fuzz(func(t *testing.T, code, text string) {
		err := fmt.Errorf("around it: %w", modern(code, text))
		if got := sqlstate.Of(err); got != code {
			t.Errorf("got code %q; want %q", got, code)
		}
		lost, refused := sqlstate.Lost(err), sqlstate.RolledBack(err)
		if lost && refused && code != "" {
			t.Errorf("%q, %q: got both lost and rolled back", code, text)
		}
		if index := sqlstate.CatalogIndex(err); index != "" && (code != "23505" || !strings.Contains(err.Error(), index)) {
			t.Errorf("%q, %q: got catalog index %q", code, text, index)
		}
		if sqlstate.Concurrent(err) && code != "XX000" {
			t.Errorf("%q, %q: got an internal error", code, text)
		}
	})
}
