package bootlock_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/conformance/matrix"
	"github.com/bootlock/bootlock/internal/doctor"
	"github.com/bootlock/bootlock/internal/pgtest"
	"github.com/bootlock/bootlock/schemaguard"
)

// Every promise, with every driver and mode, directly and through PgBouncer. lib/pq
// and pgx differ in every failure that was looked at, and the modes of pgx in which
// protocol a statement goes by.
//
// By itself this takes one server and the two modes of pgx that differ most;
// scripts/test-matrix.sh takes all of both.
func TestConformance(t *testing.T) {
	modes := []string{"cache_statement", "simple_protocol"}
	if os.Getenv(matrix.EnvServers) != "" {
		modes = append(modes, "cache_describe", "describe_exec", "exec")
	}
	targets := []matrix.Driver{{Name: "lib/pq", SQLName: "postgres"}}
	for _, mode := range modes {
		targets = append(targets, matrix.Driver{Name: "pgx", Mode: mode, SQLName: "pgx", Params: "default_query_exec_mode=" + mode})
	}
	matrix.Run(t, targets)
}

// pgBouncer starts a pooler in front of the server of all tests.
func pgBouncer(t *testing.T, mode string, size int) *matrix.PgBouncer {
	t.Helper()
	b, err := matrix.StartPgBouncer(t.Context(), pgtest.Shared(t).DSN, mode, size)
	if errors.Is(err, matrix.ErrNoPgBouncer) && os.Getenv("BOOTLOCK_REQUIRE_PGBOUNCER") != "1" {
		t.Skipf("not tested: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

// In statement mode PgBouncer refuses every transaction. "bad connection" is all
// that lib/pq would make of it a moment later.
func TestPgBouncerStatementModeIsUnsupported(t *testing.T) {
	bouncer := pgBouncer(t, "statement", matrix.PoolSize)
	eachDriver(t, func(t *testing.T, driver string) {
		dsn := bouncer.DSN(pgtest.Shared(t).NewDB(t))
		db := open(t, driver, dsn)
		ctx, key := t.Context(), advisorylock.KeyOf(t.Name())
		for name, err := range map[string]error{
			"WithXactLock": advisorylock.WithXactLock(ctx, db, key, func(context.Context, *sql.Tx) error { return nil }),
			"Hold":         advisorylock.Hold(ctx, db, key, func(context.Context) error { return nil }),
			"Ensure":       schemaguard.Ensure(ctx, db, "statement_mode", nil),
		} {
			if !errors.Is(err, advisorylock.ErrUnsupported) || !strings.Contains(err.Error(), "pool_mode=transaction") {
				t.Errorf("%s: got %v; want ErrUnsupported that names the pooler's mode", name, err)
			}
		}
		report, err := doctor.Run(ctx, db, open(t, driver, dsn))
		if err != nil {
			t.Fatal(err)
		}
		if f := finding(t, report, "transactions"); report.Protects || f.Level != doctor.Fail || !strings.Contains(f.Advice, "pool_mode") {
			t.Errorf("doctor: got %+v; want a failure with advice on pool_mode", f)
		}
	})
}

func TestDoctorSeesThePooler(t *testing.T) {
	for mode, want := range map[string]string{"transaction": "transaction mode", "session": "session mode"} {
		t.Run(mode, func(t *testing.T) {
			bouncer := pgBouncer(t, mode, matrix.PoolSize)
			eachDriver(t, func(t *testing.T, driver string) {
				dsn := bouncer.DSN(pgtest.Shared(t).NewDB(t))
				report, err := doctor.Run(t.Context(), open(t, driver, dsn), open(t, driver, dsn))
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range report.Findings {
					if f.Level != doctor.OK {
						t.Errorf("got %+v; want every finding ok", f)
					}
				}
				if f := finding(t, report, "pooler"); !strings.Contains(f.Text, want) {
					t.Errorf("got %q; want %q in it", f.Text, want)
				}
			})
		})
	}
}

func finding(t *testing.T, r *doctor.Report, name string) doctor.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("got no finding %q in %+v", name, r.Findings)
	return doctor.Finding{}
}
