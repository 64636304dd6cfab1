package test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
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
			db := pool(t, mode[0], pgtest.WithParams(wire.dsn, mode[1:]...))
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
					return advisorylock.WithXactLock(t.Context(), db, schemaguard.KeyFor("app"), noTx)
				}, []string{begin, lock, end}},
				{"Once, when it has run", func() error {
					return schemaguard.Guard{Once: "build 1"}.Ensure(t.Context(), db, "once", nil)
				}, []string{`SELECT 1 FROM "once".bootlock_once WHERE name OPERATOR(pg_catalog.=) 'build 1'`}},
			}
			twice := pool(t, mode[0], pgtest.WithParams(wire.dsn, mode[1:]...))
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
			err := advisorylock.Hold(t.Context(), db, 1, func(context.Context) error { return nil })
			if trips, sent := wire.seen(); trips != 0 || err == nil {
				t.Errorf("Hold on a pool of one: got %v after %q; want an error before anything is sent", err, sent)
			}
		})
	}
}

// The wiretap would see a prepared statement, had there been one.
func TestWiretapSeesPreparedStatements(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		wire := newWiretap(t, pgtest.Shared(t).NewDB(t))
		db := sqltest.Open(t, driver, wire.dsn)
		if err := db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		wire.reset()
		if _, err := db.ExecContext(t.Context(), "SELECT pg_advisory_xact_lock($1)", 1); err != nil {
			t.Fatal(err)
		}
		trips, sent := wire.seen()
		if trips < 2 || !slices.ContainsFunc(sent, func(s string) bool { return strings.HasPrefix(s, "Parse") }) {
			t.Errorf("got %d round trips, %q; want at least 2 and a Parse", trips, sent)
		}
	})
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

// wiretap is a proxy that understands what goes through it.
type wiretap struct {
	dsn string

	mu    sync.Mutex
	sent  []string // by the client: the text of a simple query, or the name of another message
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
	addr, err := pgtest.Addr(dsn)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wiretap{dsn: pgtest.WithParams(pgtest.WithAddr(dsn, listener.Addr().String()), "sslmode", "disable")}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer server.Close()
				if err := w.relay(pgproto3.NewBackend(client, client), pgproto3.NewFrontend(server, server)); err != nil {
					t.Error(err)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close() // it ends Accept
		conns.Wait()     // the pools, opened later, are closed by now
	})
	return w
}

// relay passes messages on until one side ends the connection. The protocol
// says who speaks when, up to the first ReadyForQuery; from then on both may.
func (w *wiretap) relay(client *pgproto3.Backend, server *pgproto3.Frontend) error {
	startup, err := client.ReceiveStartupMessage()
	if err != nil {
		return fmt.Errorf("startup: %w", err)
	}
	server.Send(startup)
	if err := server.Flush(); err != nil {
		return err
	}
	if err := authenticate(client, server); err != nil {
		return fmt.Errorf("authentication: %w", err)
	}
	var back sync.WaitGroup
	back.Go(func() { w.answers(client, server) })
	w.requests(client, server)
	back.Wait()
	return nil
}

func authenticate(client *pgproto3.Backend, server *pgproto3.Frontend) error {
	for {
		msg, err := server.Receive()
		if err != nil {
			return err
		}
		client.Send(msg)
		if err := client.Flush(); err != nil {
			return err
		}
		var kind uint32
		switch msg.(type) {
		case *pgproto3.ReadyForQuery, *pgproto3.ErrorResponse:
			return nil
		case *pgproto3.AuthenticationCleartextPassword:
			kind = pgproto3.AuthTypeCleartextPassword
		case *pgproto3.AuthenticationMD5Password:
			kind = pgproto3.AuthTypeMD5Password
		case *pgproto3.AuthenticationSASL:
			kind = pgproto3.AuthTypeSASL
		case *pgproto3.AuthenticationSASLContinue:
			kind = pgproto3.AuthTypeSASLContinue
		default:
			continue // nothing that the client answers
		}
		if err := client.SetAuthType(kind); err != nil {
			return err
		}
		answer, err := client.Receive()
		if err != nil {
			return err
		}
		server.Send(answer)
		if err := server.Flush(); err != nil {
			return err
		}
	}
}

// requests passes on what the client sends. Terminate ends it, and the server
// then closes the connection.
func (w *wiretap) requests(client *pgproto3.Backend, server *pgproto3.Frontend) {
	for {
		msg, err := client.Receive()
		if err != nil {
			msg = &pgproto3.Terminate{}
		}
		w.note(msg)
		server.Send(msg)
		if err := server.Flush(); err != nil {
			return
		}
		if _, last := msg.(*pgproto3.Terminate); last {
			return
		}
	}
}

func (w *wiretap) note(msg pgproto3.FrontendMessage) {
	text := strings.TrimPrefix(fmt.Sprintf("%T", msg), "*pgproto3.")
	if query, ok := msg.(*pgproto3.Query); ok {
		text = query.String
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if text == "-- ping" { // pgx's pool looks whether a connection that idled for a second is alive
		w.trips--
		return
	}
	w.sent = append(w.sent, text)
}

func (w *wiretap) answers(client *pgproto3.Backend, server *pgproto3.Frontend) {
	for {
		msg, err := server.Receive()
		if err != nil {
			return
		}
		if _, ready := msg.(*pgproto3.ReadyForQuery); ready {
			w.mu.Lock()
			w.trips++
			w.mu.Unlock()
		}
		client.Send(msg)
		if err := client.Flush(); err != nil {
			return
		}
	}
}
