// Package matrix runs the conformance suite with given drivers on every server
// that can be had, directly and through PgBouncer.
//
// [Run] does that, and writes down what ran.
package matrix

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/test/conformance"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

// Environment variables that widen what Run does.
const (
	// EnvServers names the servers to run on, as in "13=/folder/of/its/binaries
	// 14=…". Without it Run takes the one of the other tests.
	EnvServers = "BOOTLOCK_MATRIX_SERVERS"

	// EnvResults is a file to which Run adds a line for each target:
	// server, way, driver, mode, result and seconds, with tabs between.
	EnvResults = "BOOTLOCK_MATRIX_RESULTS"
)

// Driver is one driver in one of its modes.
type Driver struct {
	Name    string   // for people, with the version
	Mode    string   // for people; empty if the driver has but one
	SQLName string   // as registered with database/sql
	Params  []string // what makes the mode, for the DSN: name, value

	// Trust says that the driver knows none of the ways to prove a password
	// that PostgreSQL asks for today.
	Trust bool
}

// Run runs the suite with each driver on each server, directly and through
// PgBouncer in transaction mode. What cannot be had is skipped and said to be
// not tested.
func Run(t *testing.T, drivers []Driver) {
	trust := slices.ContainsFunc(drivers, func(d Driver) bool { return d.Trust })
	switch {
	case os.Getenv(EnvServers) != "":
	case trust:
		start(t, pgtest.Options{Origin: pgtest.OriginLocal}, trust, drivers)
	default:
		onServer(t, pgtest.Shared(t), drivers)
	}
	for _, s := range strings.Fields(os.Getenv(EnvServers)) {
		major, bin, _ := strings.Cut(s, "=")
		t.Run("PostgreSQL "+major, func(t *testing.T) { start(t, pgtest.Options{BinDir: bin}, trust, drivers) })
	}
}

func start(t *testing.T, opts pgtest.Options, trust bool, drivers []Driver) {
	t.Helper()
	opts.Settings = map[string]string{"max_connections": "600"}
	if trust {
		opts.Settings["hba_file"] = trustAll(t)
	}
	server, err := pgtest.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	onServer(t, server, drivers)
}

// trustAll returns a file that lets everybody on this machine in. The server
// listens on the loopback interface only, and is gone in a minute.
func trustAll(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "bootlock-hba-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "pg_hba.conf")
	const rule = "host all all 127.0.0.1/32 trust\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte(rule), 0o644)); err != nil { //nolint:gosec // another user reads it
		t.Fatal(err)
	}
	return path
}

// way is how a driver gets to the server.
type way struct {
	name    string
	through func(dsn string) string
	missing error
}

func onServer(t *testing.T, server *pgtest.Server, drivers []Driver) {
	t.Helper()
	admin, err := sql.Open("pgx", server.DSN) // pgtest, which uses pgx, is there in any case
	if err != nil {
		t.Fatal(err)
	}
	err = makeWeakRole(t.Context(), admin)
	admin.Close()
	if err != nil {
		t.Fatal(err)
	}
	direct := way{name: "direct", through: func(dsn string) string { return dsn }}
	pooled := way{name: "PgBouncer"}
	bouncer, err := pgbouncer.Start(t.Context(), server, "transaction", pgbouncer.Plenty)
	switch {
	case err == nil:
		t.Cleanup(bouncer.Stop)
		pooled.through = bouncer.DSN
	case errors.Is(err, pgbouncer.ErrMissing):
		pooled.missing = err
	default:
		t.Fatal(err)
	}
	t.Run("targets", func(t *testing.T) { // ends when all its parallel tests have
		for _, w := range []way{direct, pooled} {
			for _, d := range drivers {
				t.Run(strings.TrimSpace(w.name+" "+d.Name+" "+d.Mode), func(t *testing.T) {
					t.Parallel()
					tryTarget(t, server, w, d)
				})
			}
		}
	})
}

func makeWeakRole(ctx context.Context, admin *sql.DB) error {
	_, err := admin.ExecContext(ctx, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", pgtest.WeakRole, pgtest.WeakPassword))
	if sqlstate.Of(err) == "42710" { // it is there
		return nil
	}
	return err
}

func tryTarget(t *testing.T, server *pgtest.Server, w way, d Driver) {
	t.Helper()
	note(t, server.Version, w, d)
	if w.missing != nil {
		t.Skipf("not tested: %v", w.missing)
	}
	dsn := pgtest.WithParams(server.NewDB(t), d.Params...)
	conformance.Run(t, conformance.Target{
		Driver: d.SQLName,
		DSN:    w.through(dsn),
		Admin:  dsn,
		Weak:   pgtest.WithUser(w.through(dsn), pgtest.WeakRole, pgtest.WeakPassword),
	})
}

var results sync.Mutex

// note writes down how the target fared when its test has ended.
func note(t *testing.T, version string, w way, d Driver) {
	t.Helper()
	path := os.Getenv(EnvResults)
	if path == "" {
		return
	}
	begun := time.Now()
	t.Cleanup(func() {
		result := "passed"
		switch {
		case t.Failed():
			result = "FAILED"
		case t.Skipped():
			result = "not tested"
		}
		results.Lock()
		defer results.Unlock()
		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // for others to read
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		version, _, _ = strings.Cut(version, " ")
		_, err = fmt.Fprintf(file, "%s\t%s\t%s\t%s\t%s\t%.1f\n", version, w.name, d.Name, d.Mode, result, time.Since(begun).Seconds())
		if err != nil {
			t.Error(err)
		}
	})
}
