//go:build unix

// Package replica starts a primary and its streaming standby, for tests.
package replica

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/freeport"
	"github.com/bootlock/bootlock/test/pgserver"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// Files are what servers begin with. A primary and its standby have to come from
// the same ones.
type Files struct{ bin, dir string }

// Server is a primary or its streaming standby, on the loopback interface. It ends
// with the test, or with the process of the test.
type Server struct {
	Port int

	bin, dir string
	settings []string
}

// NewFiles makes the files of a server. They are gone when the test ends. Without
// server binaries on this machine the test is skipped.
func NewFiles(t *testing.T) Files {
	t.Helper()
	bin, err := pgtest.BinDir()
	if err != nil {
		t.Skipf("not tested: %v", err)
	}
	f := Files{bin: bin, dir: serverDir(t)}
	serverCommand(t, filepath.Join(bin, "initdb"), "-D", f.dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	return f
}

// Start starts a primary and a standby that streams from it. A copy of a
// server that was shut down in order is a standby's beginning; no pg_basebackup is
// needed, which the npm packages have not.
func (f Files) Start(t *testing.T) (primary, standby *Server) {
	t.Helper()
	primary = f.StartOne(t)
	standby = f.server(t, "primary_conninfo=host=127.0.0.1 user=postgres port="+strconv.Itoa(primary.Port))
	serverCommand(t, "touch", filepath.Join(standby.dir, "standby.signal"))
	standby.StartAgain(t)
	return primary, standby
}

// StartOne starts a server with settings, as in "max_connections=200".
func (f Files) StartOne(t *testing.T, settings ...string) *Server {
	t.Helper()
	s := f.server(t, settings...)
	s.StartAgain(t)
	return s
}

func (f Files) server(t *testing.T, settings ...string) *Server {
	t.Helper()
	port, err := freeport.Find()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Port: port, bin: f.bin, dir: serverDir(t)}
	s.settings = append(settings, "listen_addresses=127.0.0.1", "port="+strconv.Itoa(port), "unix_socket_directories=", "fsync=off")
	serverCommand(t, "cp", "-R", f.dir+"/.", s.dir)
	return s
}

func serverDir(t *testing.T) string {
	t.Helper()
	dir, err := pgserver.Dir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func serverCommand(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd, err := pgserver.Command("/", name, args...)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// serverLog is in the folder of the server, where it has no name of its own.
const serverLog = "bootlock.log"

// The shell ends the server and removes its files when this process is gone, and its
// standard input with it.
const replicaScript = `dir=$1; shift; "$@" >>"$dir/` + serverLog + `" 2>&1 </dev/null & cat >/dev/null; kill -QUIT $! 2>/dev/null; wait; rm -rf "$dir"`

// StartAgain starts a server that was ended, if it ever ran, at its address and with its
// data.
func (s *Server) StartAgain(t *testing.T) {
	t.Helper()
	args := []string{s.dir, filepath.Join(s.bin, "postgres"), "-D", s.dir}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	stop, err := pgserver.Run("/", replicaScript, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	db := sqltest.Open(t, "pgx", s.DSN())
	await.True(t, "the server answers; its log is "+filepath.Join(s.dir, serverLog), func() bool { return db.PingContext(t.Context()) == nil })
}

// DSN is the URL of the database postgres, as a superuser. Any password will do for the
// server; PgBouncer wants one.
func (s *Server) DSN() string {
	return pgserver.LoopbackDSN("127.0.0.1:"+strconv.Itoa(s.Port), "any")
}

// Dir is where its files are.
func (s *Server) Dir() string { return s.dir }

// Gone waits until the server has ended by itself.
func (s *Server) Gone(t *testing.T) {
	t.Helper()
	await.True(t, "the end of the server", func() bool {
		_, err := os.Stat(filepath.Join(s.dir, "postmaster.pid"))
		return os.IsNotExist(err)
	})
}

// End kills the server and waits until all its processes are gone: the backends of
// a killed postmaster live on for an instant, in which they can even commit.
func (s *Server) End(t *testing.T, signal syscall.Signal) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	db := sqltest.Open(t, "pgx", s.DSN())
	processes := []int{pid}
	for _, backend := range strings.Fields(sqltest.Ask[string](t, db, "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity")) {
		pid, _ := strconv.Atoi(backend)
		processes = append(processes, pid)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
	await.True(t, "the server is gone", func() bool {
		return !slices.ContainsFunc(processes, func(pid int) bool { return syscall.Kill(pid, 0) == nil })
	})
}

// CatchUp waits until the standby has replayed what the primary has written.
func (s *Server) CatchUp(t *testing.T, primary *Server) {
	t.Helper()
	from, to := sqltest.Open(t, "pgx", primary.DSN()), sqltest.Open(t, "pgx", s.DSN())
	written := sqltest.Ask[string](t, from, "SELECT pg_current_wal_lsn()::text")
	await.True(t, "the standby has caught up", func() bool {
		return sqltest.Ask[bool](t, to, "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)", written)
	})
}
