//go:build unix

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// initSQL is an ordinary idempotent script, as it stands in many repositories.
// Each of its statements is safe to repeat, and none is safe against itself: 8
// psql that run it together on a fresh database get duplicate keys in pg_namespace
// and pg_type, and "tuple concurrently updated" from the two GRANTs.
const initSQL = `
\set ON_ERROR_STOP on
SELECT pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1); -- the starting gate
CREATE SCHEMA IF NOT EXISTS app;
CREATE SEQUENCE IF NOT EXISTS app.ids;
CREATE TABLE IF NOT EXISTS app.jobs (id bigint PRIMARY KEY DEFAULT nextval('app.ids'), payload text);
CREATE INDEX IF NOT EXISTS jobs_payload ON app.jobs (payload);
CREATE OR REPLACE FUNCTION app.add(text) RETURNS bigint LANGUAGE sql AS 'INSERT INTO app.jobs (payload) VALUES ($1) RETURNING id';
GRANT USAGE ON SCHEMA app TO PUBLIC;
GRANT SELECT, INSERT ON app.jobs TO PUBLIC;
SELECT app.add('hello');
`

func TestPsqlRace(t *testing.T) {
	rounds, processes := 20, 8
	if testing.Short() {
		rounds = 6
	}
	if _, err := exec.LookPath("psql"); err != nil {
		t.Fatalf("the race needs psql: %v", err)
	}
	server := pgtest.Shared(t)
	script := filepath.Join(t.TempDir(), "init.sql")
	if err := os.WriteFile(script, []byte(initSQL), 0o644); err != nil {
		t.Fatal(err)
	}

	var alone []string // the first failure of each round that had one
	for range rounds {
		if failures := psqlRound(t, server, script, processes); len(failures) > 0 {
			alone = append(alone, failures[0])
		}
	}
	t.Logf("alone: %d of %d rounds failed", len(alone), rounds)
	if len(alone) > 0 {
		t.Logf("such as with:\n%s", alone[0])
	}
	if len(alone) <= rounds/2 {
		t.Errorf("got failures in %d of %d rounds without the guard; want most, or the rest proves nothing", len(alone), rounds)
	}
	for round := range rounds {
		failures := psqlRound(t, server, script, processes, "bootlock", "run", "--lock", "init", "--")
		if len(failures) > 0 {
			t.Errorf("round %d: got %d failures under bootlock run, such as %q; want none", round, len(failures), failures[0])
		}
	}
}

// psqlRound lets processes run the script on a fresh database at the same moment,
// and returns what those that failed had to say.
//
// The gate is a lock of its own, that each script waits for: it opens when all
// are there, which under the guard means one at the gate and the others waiting
// for bootlock's lock.
func psqlRound(t *testing.T, server *pgtest.Server, script string, processes int, guard ...string) (failures []string) {
	t.Helper()
	dsn, drop, err := server.CreateDatabase(t.Context(), "psql_race")
	if err != nil {
		t.Fatal(err)
	}
	defer drop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	db := sqltest.Open(t, "pgx", dsn)
	defer db.Close()
	gate := sqltest.Begin(t, db)
	sqltest.Exec(t, gate, "SELECT pg_advisory_xact_lock(1)")

	args := append(guard, "psql", "-qX", "-f", script, dsn)
	commands := make([]*exec.Cmd, processes)
	outputs := make([]bytes.Buffer, processes)
	for i := range commands {
		commands[i] = exec.CommandContext(ctx, args[0], args[1:]...)
		commands[i].Env = append(os.Environ(), "DATABASE_URL="+dsn)
		commands[i].Stdout, commands[i].Stderr = &outputs[i], &outputs[i]
		if err := commands[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	here := "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
	if guard != nil {
		here = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'bootlock run%'"
	}
	await.True(t, "all", func() bool { return sqltest.Ask[int](t, db, here) >= processes })
	sqltest.Commit(t, gate)
	for i, c := range commands {
		if err := c.Wait(); err != nil {
			failures = append(failures, strings.TrimSpace(outputs[i].String()))
		}
	}
	if n := sqltest.Ask[int](t, db, "SELECT count(*) FROM app.jobs"); n != processes-len(failures) {
		t.Errorf("got %d rows of %d processes that say they have succeeded", n, processes-len(failures))
	}
	return failures
}
