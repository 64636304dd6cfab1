//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// Twice as many processes as the server has connections: those that wait took
// them all, and the psql of the one that had the lock failed with "sorry, too many
// clients already". It does so far more seldom now, and not never: between the moment
// at which there was a connection and that at which psql connects, others may come.
func TestMoreProcessesThanConnections(t *testing.T) {
	const limit, processes = 20, 40
	server, err := pgtest.Start(t.Context(), pgtest.Options{Settings: map[string]string{"max_connections": fmt.Sprint(limit)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	dsn := server.NewDB(t)
	db := sqltest.Open(t, "pgx", dsn)
	db.SetMaxOpenConns(1)
	sqltest.Exec(t, db, "CREATE TABLE done (n int)")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	commands := make([]*exec.Cmd, processes)
	said := make([]bytes.Buffer, processes)
	for i := range commands {
		args := []string{"run", "-q", "--lock", "migrate", "--", "psql", "-qX", "-c", "INSERT INTO done VALUES (1)", dsn}
		if i%2 == 0 { // nobody needs it: too few connections are waited for anyway
			args = append([]string{"--wait-for-server", "5m"}, args...)
		}
		commands[i] = exec.CommandContext(ctx, "bootlock", args...)
		commands[i].Env = append(os.Environ(), "DATABASE_URL="+dsn)
		commands[i].Stderr = &said[i]
		if err := commands[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	failed := 0
	for i, c := range commands {
		err := c.Wait()
		switch {
		case err == nil:
		case strings.Contains(said[i].String(), "too many clients already") && c.ProcessState.ExitCode() == 2: // psql's own
			failed++
		default:
			t.Errorf("got %v: %s; want none of %d to fail on %d connections", err, said[i].String(), processes, limit)
		}
	}
	// A connection is made sure of, and not kept: another process may have it first.
	if failed > processes/3 {
		t.Errorf("psql found no connection in %d of %d; want that in a third at most", failed, processes)
	}
	if got := sqltest.Ask[int](t, db, "SELECT count(*) FROM done"); got != processes-failed {
		t.Errorf("got %d rows; want one of each of %d that had a connection", got, processes-failed)
	}
}

// Two that take turns on a busy server took in reserve what was left of its
// connections, and kept everybody else out for ten seconds each.
func TestOthersFindConnections(t *testing.T) {
	const limit, idle, probes = 60, 50, 100 // of the limit three are for superusers
	server, err := pgtest.Start(t.Context(), pgtest.Options{Settings: map[string]string{"max_connections": fmt.Sprint(limit)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(server.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	admin := sqltest.Open(t, "pgx", u.String())
	admin.SetMaxOpenConns(1)
	sqltest.Exec(t, admin, "CREATE ROLE others LOGIN PASSWORD 'others'")
	u.User = url.UserPassword("others", "others")
	dsn := u.String()
	others := sqltest.Open(t, "pgx", dsn)
	for range idle {
		sqltest.Begin(t, others)
	}
	// outside runs two commands, of which one gets to a closed gate and the other waits
	// for it, and returns how many connects fail meanwhile.
	outside := func(command string) (failed int) {
		sqltest.Exec(t, admin, "SELECT pg_advisory_lock(1)")
		var ended []<-chan error
		for range 2 {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
			cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
			ended = append(ended, await.Go(cmd.Run))
		}
		probe := func() {
			await.True(t, "the end of the last probe", func() bool {
				return sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'probe'") == 0
			})
			conn, err := pgx.Connect(t.Context(), pgtest.WithParams(dsn, "application_name", "probe"))
			if err != nil {
				failed++
				return
			}
			_ = conn.Close(t.Context())
		}
		await.True(t, "one at the gate", func() bool {
			probe()
			return sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted") == 1
		})
		for range probes {
			probe()
		}
		sqltest.Exec(t, admin, "SELECT pg_advisory_unlock(1)")
		for _, err := range ended {
			if err := await.Value(t, err); err != nil {
				t.Errorf("%s: %v", command, err)
			}
		}
		return failed
	}
	const gated = ` psql -qX -c "SELECT pg_advisory_lock_shared(1)" "$DATABASE_URL"`
	plain := outside(strings.Replace(gated, "-c", `-c "SELECT pg_advisory_lock(2)" -c`, 1))
	if guarded := outside("bootlock run -q --lock migrate --" + gated); guarded > plain {
		t.Errorf("%d connects of others failed beside two bootlock run, %d beside plain locks; want no more", guarded, plain)
	}
}
