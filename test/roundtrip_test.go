package test

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
)

// A statement with an argument, or one that a driver prepares by itself, costs
// a round trip more, leaves a snapshot behind, and fails behind a pooler: here
// what really goes over the wire is counted.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	modes := map[string][]string{"lib/pq": {"postgres"}}
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		modes["pgx "+mode] = []string{"pgx", "default_query_exec_mode", mode}
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire := newWiretap(t, pgtest.Shared(t).NewDB(t))
			db := locktest.Pool(t, mode[0], pgtest.WithParams(wire.dsn, mode[1:]...))
			db.SetMaxOpenConns(1)
			if err := db.PingContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			create := `CREATE SCHEMA IF NOT EXISTS "app"`
			lock := fmt.Sprintf("SELECT pg_catalog.pg_advisory_xact_lock(%d) …", schemaguard.KeyFor("app"))
			look := "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'app'"
			begin, end := "BEGIN", "COMMIT"

			tests := []struct {
				what string
				call func() error
				want []string
			}{
				{"Ensure, cold", func() error { return schemaguard.Ensure(t.Context(), db, "app", nil) }, []string{begin, lock, create, end}},
				{"Ensure, warm", func() error { return schemaguard.Ensure(t.Context(), db, "app", nil) }, []string{begin, lock, create, end}},
				{"Ensure with SkipIfExists, warm", func() error {
					return schemaguard.Guard{SkipIfExists: true}.Ensure(t.Context(), db, "app", nil)
				}, []string{look}},
				{"WithXactLock", func() error {
					return advisorylock.WithXactLock(t.Context(), db, schemaguard.KeyFor("app"), locktest.Nothing)
				}, []string{begin, lock, end}},
				{"Once, when it has run", func() error {
					return schemaguard.Guard{Once: "build 1"}.Ensure(t.Context(), db, "once", nil)
				}, []string{`SELECT 1 FROM "once".bootlock_once WHERE name OPERATOR(pg_catalog.=) 'build 1'`}},
			}
			twice := locktest.Pool(t, mode[0], pgtest.WithParams(wire.dsn, mode[1:]...))
			if err := (schemaguard.Guard{Once: "build 1"}).Ensure(t.Context(), twice, "once", func(context.Context, *sql.DB) error { return nil }); err != nil {
				t.Fatal(err)
			}
			for _, tt := range tests {
				wire.reset()
				if err := tt.call(); err != nil {
					t.Fatal(err)
				}
				trips, sent := wire.seen()
				if trips != len(tt.want) {
					t.Errorf("%s: got %d round trips; want %d\n%q", tt.what, trips, len(tt.want), sent)
				}
				if !slices.EqualFunc(sent, tt.want, sameStatement) {
					t.Errorf("%s:\ngot  %q\nwant %q", tt.what, sent, tt.want)
				}
			}
			wire.reset()
			if _, err := db.ExecContext(t.Context(), "SELECT $1::int", 1); err != nil {
				t.Fatal(err)
			}
			if _, sent := wire.seen(); !slices.Contains(sent, "P") && name != "pgx simple_protocol" {
				t.Errorf("got %q of a prepared statement; want a Parse, or this test proves nothing", sent)
			}
			wire.reset()
			err := advisorylock.Hold(t.Context(), db, 1, locktest.None)
			if trips, sent := wire.seen(); trips != 0 || err == nil {
				t.Errorf("Hold on a pool of one: got %v after %q; want an error before anything is sent", err, sent)
			}
		})
	}
}

// sameStatement compares but for the driver's way to write BEGIN and COMMIT,
// which is the only liberty that it has.
func sameStatement(got, want string) bool {
	got = strings.TrimSuffix(strings.TrimSpace(got), ";")
	switch want {
	case "BEGIN":
		got = strings.ToUpper(got)
		return got == "BEGIN ISOLATION LEVEL READ COMMITTED" || got == "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
	case "COMMIT":
		return strings.EqualFold(got, want)
	}
	if beginning, cut := strings.CutSuffix(want, " …"); cut { // of what advisorylock's own tests know in full
		return strings.HasPrefix(got, beginning)
	}
	return got == want
}

// wiretap reads what goes through a relay.
type wiretap struct {
	dsn string

	mu    sync.Mutex
	sent  []string // by the client: the text of a simple query, or the letter of another message
	trips int      // times that the server became ready again, and the client could go on
}

func (w *wiretap) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.trips = nil, 0
}

func (w *wiretap) seen() (trips int, sent []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trips, slices.Clone(w.sent)
}

func newWiretap(t *testing.T, dsn string) *wiretap {
	t.Helper()
	w := &wiretap{}
	w.dsn = pgtest.WithParams(newTapped(t, dsn, w.tap).dsn, "sslmode", "disable")
	return w
}

// tap takes the messages of one connection apart: a letter and the length of the rest.
// The client's first message, on start-up, has no letter.
func (w *wiretap) tap() relay.Tap {
	unread := map[bool][]byte{false: {'0'}}
	return func(message []byte, fromServer bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		rest := append(unread[fromServer], message...)
		for len(rest) >= 5 {
			end := 1 + int(binary.BigEndian.Uint32(rest[1:]))
			if len(rest) < end {
				break
			}
			w.note(rest[0], rest[5:end], fromServer)
			rest = rest[end:]
		}
		unread[fromServer] = rest
	}
}

func (w *wiretap) note(letter byte, body []byte, fromServer bool) {
	text := strings.TrimSuffix(string(body), "\x00")
	switch {
	case fromServer && letter == 'Z': // ReadyForQuery
		w.trips++
	case fromServer:
	case letter != 'Q':
		w.sent = append(w.sent, string(letter))
	case text == "-- ping": // pgx's pool looks whether a connection that idled for a second is alive
		w.trips--
	default:
		w.sent = append(w.sent, text)
	}
}
