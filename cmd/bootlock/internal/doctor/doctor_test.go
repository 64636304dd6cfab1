package doctor_test

import (
	"bytes"
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/doctor"
	"github.com/bootlock/bootlock/test/hostile"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/sqltest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// open makes a pool as the command has it.
func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	return sqltest.Open(t, "pgx", pgtest.WithParams(dsn, "default_query_exec_mode", "simple_protocol"))
}

func examine(t *testing.T, a, b *sql.DB) *doctor.Report {
	t.Helper()
	report, err := doctor.Run(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		t.Logf("%-4s %s: %s (%s)", f.Level, f.Name, f.Text, f.Advice)
	}
	return report
}

func find(t *testing.T, r *doctor.Report, name string) doctor.Finding {
	t.Helper()
	i := slices.IndexFunc(r.Findings, func(f doctor.Finding) bool { return f.Name == name })
	if i < 0 {
		t.Fatalf("got no finding %q in %v", name, r.Findings)
	}
	return r.Findings[i]
}

// A real server is fine, whatever stands in front of it.
func TestRealServer(t *testing.T) {
	for mode, pooler := range map[string]string{"": "none", "transaction": "there is a pooler in transaction mode", "session": "none, or one in session mode"} {
		t.Run("pooler "+mode, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Shared(t).NewDB(t)
			if mode != "" {
				dsn = pgbouncer.New(t, pgtest.Shared(t), mode, pgbouncer.Plenty).DSN(dsn)
			}
			report := examine(t, open(t, dsn), open(t, dsn))
			for _, f := range report.Findings {
				if f.Level != doctor.OK || f.Text == "" || !report.Protects {
					t.Errorf("got %+v, Protects %t; want ok as a superuser on a new database", f, report.Protects)
				}
			}
			if f := find(t, report, "pooler"); !strings.HasPrefix(f.Text, pooler) {
				t.Errorf("got pooler %q; want %q", f.Text, pooler)
			}
		})
	}
}

// forge makes something of each message to a server or of one from it that has the
// same length.
type forge func(message []byte)

func replace(old, new string) forge {
	if len(old) != len(new) {
		panic(old + " is not as long as " + new)
	}
	return func(message []byte) { copy(message, bytes.ReplaceAll(message, []byte(old), []byte(new))) }
}

// forged is the DSN of a new database on a server that such a thing stands in front of.
func forged(t *testing.T, forge forge) string {
	t.Helper()
	server := pgtest.Shared(t)
	address, err := pgtest.Addr(server.DSN)
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.Listen("127.0.0.1:0", address, func() relay.Tap { return func(message []byte, _ bool) { forge(message) } })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return pgtest.WithAddr(server.NewDB(t), r.Addr)
}

// CockroachDB had pg_try_advisory_xact_lock that was always true and took no lock;
// YugabyteDB says so in a notice that can be silenced. Every call succeeds, and two
// processes migrate at once. This and more is made of a real server here.
func TestServerThatDoesNotLock(t *testing.T) {
	const ok, warn, fail = doctor.OK, doctor.Warn, doctor.Fail
	for name, test := range map[string]struct {
		forge forge
		found map[string]doctor.Level
	}{
		"answers without locking": {hostile.AnotherKey, map[string]doctor.Level{"exclusive lock": fail, "shared lock": fail, "wait": fail}},
		"keeps sharers apart":     {replace("_lock_shared(", "_lock       ("), map[string]doctor.Level{"exclusive lock": ok, "shared lock": fail}},
		"does not know SET LOCAL": {replace("SET LOCAL idle", "SET LOC   idle"), map[string]doctor.Level{"settings of a transaction": fail}},
		"keeps settings":          {replace("SET LOCAL idle", "SET       idle"), map[string]doctor.Level{"settings of a transaction": fail}},
		"is not PostgreSQL":       {replace("PostgreSQL ", "YugabyteDB "), map[string]doctor.Level{"server": warn}},
		"two servers":             {replace("inet_server_port", "inet_client_port"), map[string]doctor.Level{"one server": fail}},
		"a standby":               {replace("pg_catalog.pg_is_in_recovery()::", "true                          ::"), map[string]doctor.Level{"primary or standby": fail}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := forged(t, test.forge)
			report := examine(t, open(t, dsn), open(t, dsn))
			failed := false
			for name, want := range test.found {
				failed = failed || want == fail
				if f := find(t, report, name); f.Level != want || f.Level != ok && f.Advice == "" {
					t.Errorf("got %+v; want %s", f, want)
				}
			}
			if report.Protects == failed {
				t.Errorf("got Protects %t", report.Protects)
			}
		})
	}
}

func TestSilentHolderIsNotEnded(t *testing.T) {
	t.Parallel()
	dsn := forged(t, replace("timeout = '500ms'", "timeout = '000ms'"))
	report := examine(t, open(t, dsn), open(t, dsn))
	if f := find(t, report, "dead holder"); f.Level != doctor.Warn || !report.Protects {
		t.Errorf("got %+v, Protects %t; want a warning", f, report.Protects)
	}
}

// A role with nothing but CONNECT: locks work, and the report says what does not.
func TestRoleWithoutRights(t *testing.T) {
	dsn := pgtest.Shared(t).NewDB(t)
	const role = "doctor_nobody"
	admin := open(t, dsn)
	sqltest.Exec(t, admin, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'; REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
	t.Cleanup(func() { sqltest.Exec(t, admin, "DROP ROLE "+role) })
	dsn = pgtest.WithUser(dsn, role, "secret")
	report := examine(t, open(t, dsn), open(t, dsn))
	if !report.Protects {
		t.Error("got Protects false; want true, locks need no rights")
	}
	for _, name := range []string{"create schemas", "plpgsql", "see other sessions", "end other sessions"} {
		if f := find(t, report, name); f.Level != doctor.Warn || f.Advice == "" {
			t.Errorf("got %s %q, advice %q; want a warning with advice", f.Level, name, f.Advice)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	db := open(t, pgtest.Shared(t).NewDB(t))
	if report, err := doctor.Run(ctx, db, db); err == nil {
		t.Errorf("got %v; want the context's error", report)
	}
}
