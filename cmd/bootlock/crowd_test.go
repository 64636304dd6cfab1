//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

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
	dsn := server.NewDB(t)
	admin := sqltest.Open(t, "pgx", dsn)
	admin.SetMaxOpenConns(1)
	sqltest.Exec(t, admin, "CREATE ROLE others LOGIN PASSWORD 'others'")
	dsn = pgtest.WithUser(dsn, "others", "others")
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
