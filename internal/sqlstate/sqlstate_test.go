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

// pgx and lib/pq since 1.10 have SQLState, older lib/pq and its forks only Get.
func modern(code, text string) error { return recdriver.SQLError{Code: code, Message: text} }
func legacy(code, text string) error { return recdriver.LegacySQLError{Code: code, Message: text} }

func TestOf(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"plain", boom, ""},
		{"modern", modern("23505", ""), "23505"},
		{"legacy", legacy("23505", ""), "23505"},
		{"wrapped", fmt.Errorf("insert: %w", modern("42P06", "")), "42P06"},
		{"wrapped legacy", fmt.Errorf("insert: %w", legacy("42P06", "")), "42P06"},
		{"joined", errors.Join(boom, fmt.Errorf("x: %w", legacy("40001", ""))), "40001"},
		{"modern before legacy", errors.Join(legacy("00001", ""), modern("00002", "")), "00002"},
		{"no code", modern("", ""), ""},
	} {
		if got := sqlstate.Of(tt.err); got != tt.want {
			t.Errorf("%s: got %q; want %q", tt.name, got, tt.want)
		}
	}
}

// Only a clash on a system catalog is the race; a 23505 on a constraint of the
// user's own is a mistake that must be reported.
func TestCatalogIndex(t *testing.T) {
	t.Parallel()
	clash := `duplicate key value violates unique constraint "pg_namespace_nspname_index"`
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"schema", modern("23505", clash), "pg_namespace_nspname_index"},
		{"schema, legacy", legacy("23505", clash), "pg_namespace_nspname_index"},
		{"type", modern("23505", `duplicate key value violates unique constraint "pg_type_typname_nsp_index"`), "pg_type_typname_nsp_index"},
		{"german", modern("23505", `doppelter Schlüsselwert verletzt Unique-Constraint »pg_namespace_nspname_index«`), "pg_namespace_nspname_index"},
		{"wrapped", fmt.Errorf("create: %w", modern("23505", clash)), "pg_namespace_nspname_index"},
		{"user's constraint", modern("23505", `duplicate key value violates unique constraint "users_pkey"`), ""},
		{"user's index with a similar name", modern("23505", `duplicate key value violates unique constraint "my_pg_namespace_index"`), ""},
		{"another code", modern("42P06", clash), ""},
		{"no code", errors.New(clash), ""},
	} {
		if got := sqlstate.CatalogIndex(tt.err); got != tt.want {
			t.Errorf("%s: got %q; want %q", tt.name, got, tt.want)
		}
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"updated", modern("XX000", "tuple concurrently updated"), true},
		{"deleted, legacy", legacy("XX000", "tuple concurrently deleted"), true},
		{"another internal error", modern("XX000", "cache lookup failed for relation 1"), false},
		{"another code", modern("23505", "tuple concurrently updated"), false},
		{"no code", errors.New("tuple concurrently updated"), false},
	} {
		if got := sqlstate.Concurrent(tt.err); got != tt.want {
			t.Errorf("%s: got %t; want %t", tt.name, got, tt.want)
		}
	}
}

// What pgx makes of the end of a session is a SQLSTATE, io.ErrUnexpectedEOF or a
// text; lib/pq makes driver.ErrBadConn of nearly everything.
func TestLost(t *testing.T) {
	t.Parallel()
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"connection exception", modern("08006", ""), true},
		{"protocol violation", modern("08P01", ""), true},
		{"admin shutdown", modern("57P01", ""), true},
		{"crash", modern("57P02", ""), true},
		{"starting up", legacy("57P03", ""), true},
		{"idle session", modern("57P05", ""), true},
		{"idle in transaction", modern("25P03", ""), true},
		{"transaction timeout", modern("25P04", ""), true},
		{"cancelled", modern("57014", ""), false},
		{"lock timeout", modern("55P03", ""), false},
		{"aborted transaction", modern("25P02", ""), false},
		{"unique violation", modern("23505", "conn closed"), false},
		{"bad connection", driver.ErrBadConn, true},
		{"wrapped bad connection", fmt.Errorf("commit: %w", driver.ErrBadConn), true},
		{"closed connection", sql.ErrConnDone, true},
		{"EOF", io.EOF, true},
		{"unexpected EOF", fmt.Errorf("read: %w", io.ErrUnexpectedEOF), true},
		{"closed network connection", net.ErrClosed, true},
		{"reset", reset, true},
		{"broken pipe", syscall.EPIPE, true},
		{"aborted", syscall.ECONNABORTED, true},
		{"pgx's text", errors.New("failed to deallocate: conn closed"), true},
		{"transaction done", sql.ErrTxDone, false},
		{"context", context.DeadlineExceeded, false},
		{"another error", errors.New("boom"), false},
	} {
		if got := sqlstate.Lost(tt.err); got != tt.want {
			t.Errorf("%s: got %t; want %t", tt.name, got, tt.want)
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
