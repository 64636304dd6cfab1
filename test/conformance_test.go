package test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/conformance/matrix"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// Every promise, with every driver and mode, directly and through PgBouncer. lib/pq
// and pgx differ in every failure that was looked at, and the modes of pgx in which
// protocol a statement goes by.
//
// By itself this takes one server and the mode that pgx has by default;
// scripts/test-matrix.sh takes all of both.
func TestConformance(t *testing.T) {
	t.Parallel()
	modes := []string{"cache_statement"}
	if os.Getenv(matrix.EnvServers) != "" {
		modes = append(modes, "simple_protocol", "cache_describe", "describe_exec", "exec")
	}
	targets := []matrix.Driver{{Name: "lib/pq", SQLName: "postgres"}}
	for _, mode := range modes {
		targets = append(targets, matrix.Driver{Name: "pgx", Mode: mode, SQLName: "pgx", Params: []string{"default_query_exec_mode", mode}})
	}
	matrix.Run(t, targets)
}

// In statement mode PgBouncer refuses every transaction. "bad connection" is all
// that lib/pq would make of it a moment later.
func TestPgBouncerStatementModeIsUnsupported(t *testing.T) {
	t.Parallel()
	bouncer := pgbouncer.New(t, pgtest.Shared(t), "statement", pgbouncer.Plenty)
	eachDriver(t, func(t *testing.T, driver string) {
		db := sqltest.Open(t, driver, bouncer.DSN(pgtest.Shared(t).NewDB(t)))
		ctx, key := t.Context(), advisorylock.KeyOf(t.Name())
		for name, err := range map[string]error{
			"WithXactLock": advisorylock.WithXactLock(ctx, db, key, func(context.Context, *sql.Tx) error { return nil }),
			"Hold":         advisorylock.Hold(ctx, db, key, locktest.None),
			"Ensure":       schemaguard.Ensure(ctx, db, "statement_mode", nil),
		} {
			if !errors.Is(err, advisorylock.ErrUnsupported) || !strings.Contains(err.Error(), "pool_mode=transaction") {
				t.Errorf("%s: got %v; want ErrUnsupported that names the pooler's mode", name, err)
			}
		}
	})
}
