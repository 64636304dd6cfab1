//go:build unix

package bootlock_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/doctor"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/schemaguard"
)

// A primary with a standby, from one beginning.
func TestStandby(t *testing.T) {
	beginning := newBeginning(t)
	t.Run("Ensure on the standby", func(t *testing.T) {
		t.Parallel()
		ensureOnStandby(t, beginning)
	})
	for name, signal := range map[string]syscall.Signal{
		"immediate shutdown": syscall.SIGQUIT,
		"killed":             syscall.SIGKILL,
	} {
		for _, driver := range drivers {
			t.Run("failover/"+name+"/"+driver, func(t *testing.T) {
				t.Parallel()
				failover(t, beginning, driver, signal)
			})
		}
	}
}

// erpc and harbor did not start on a read replica: CREATE SCHEMA IF NOT EXISTS
// fails there although there is nothing to create, and lib/pq cannot even begin,
// since it asks for READ WRITE.
func ensureOnStandby(t *testing.T, beginning replica) {
	primary, standby := newReplicas(t, beginning)
	admin := open(t, "pgx", primary.dsn())
	replicaExec(t, admin, "CREATE SCHEMA there; CREATE TABLE there.done (n int); INSERT INTO there.done VALUES (1)")
	standby.catchUp(t, primary)
	eachDriver(t, func(t *testing.T, driver string) {
		db := open(t, driver, standby.dsn())
		upToDate := func(ctx context.Context, db *sql.DB) (done bool, err error) {
			err = db.QueryRowContext(ctx, "SELECT count(*) > 0 FROM there.done").Scan(&done)
			return done, err
		}
		for name, guard := range map[string]schemaguard.Guard{
			"plain":          {},
			"skip if exists": {SkipIfExists: true},
			"bootstrap": {Bootstrap: func(context.Context, *sql.Tx) error {
				return errors.New("nothing can be written here")
			}},
		} {
			migrated := false
			err := guard.Ensure(t.Context(), db, "there", func(context.Context, *sql.DB) error {
				migrated = true
				return nil
			})
			if err != nil || !migrated {
				t.Errorf("%s: got %v, migrated %v; want nil and migrate, the schema is there", name, err, migrated)
			}
		}
		if err := (schemaguard.Guard{UpToDate: upToDate}).Ensure(t.Context(), db, "there", func(context.Context, *sql.DB) error {
			return errors.New("nothing to migrate")
		}); err != nil {
			t.Errorf("up to date: got %v; want nil", err)
		}

		err := schemaguard.Ensure(t.Context(), db, "missing", func(context.Context, *sql.DB) error {
			t.Error("got migrate called without a schema; want it left out")
			return nil
		})
		code := sqlstate.Of(err)
		if code != "25006" && code != "0A000" || !strings.Contains(err.Error(), "read-only") || !strings.Contains(err.Error(), "primary") {
			t.Errorf("got %v; want 25006 or 0A000, and that this server is read-only", err)
		}

		report, err := doctor.Run(t.Context(), db, open(t, driver, standby.dsn()))
		if err != nil {
			t.Fatal(err)
		}
		if f := finding(t, report, "primary or standby"); report.Protects || f.Level != doctor.Fail {
			t.Errorf("doctor: got Protects %v, %+v; want a failure, locks here exclude nobody on the primary", report.Protects, f)
		}
		report, err = doctor.Run(t.Context(), open(t, driver, primary.dsn()), db)
		if err != nil {
			t.Fatal(err)
		}
		if f := finding(t, report, "one server"); report.Protects || f.Level != doctor.Fail {
			t.Errorf("doctor on both: got Protects %v, %+v; want two servers found out", report.Protects, f)
		}
	})
}

// failover: the primary dies with processes inside WithXactLock, Hold and Ensure,
// and the standby takes over. The holders are told, and the next start succeeds.
func failover(t *testing.T, beginning replica, driver string, signal syscall.Signal) {
	primary, standby := newReplicas(t, beginning)
	both := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable connect_timeout=10 target_session_attrs=read-write", primary.port, standby.port)
	db := open(t, driver, both)
	if err := schemaguard.Ensure(t.Context(), db, "before", nil); err != nil {
		t.Fatal(err)
	}
	standby.catchUp(t, primary)

	inside, dead := make(chan struct{}), make(chan struct{})
	holders := map[string]chan error{}
	hold := func(name string, call func(wait func()) error) {
		done := make(chan error, 1)
		holders[name] = done
		var once sync.Once
		arrive := func() { once.Do(func() { inside <- struct{}{} }) }
		go func() {
			err := call(func() { arrive(); <-dead })
			arrive() // even if it failed on the way
			done <- err
		}()
	}
	ctx := t.Context()
	hold("WithXactLock, found out by the commit", func(wait func()) error {
		return advisorylock.WithXactLock(ctx, db, 1, func(context.Context, *sql.Tx) error { wait(); return nil })
	})
	hold("WithXactLock, found out by a statement", func(wait func()) error {
		return advisorylock.WithXactLock(ctx, db, 2, func(ctx context.Context, tx *sql.Tx) error {
			wait()
			_, err := tx.ExecContext(ctx, "SELECT 1")
			return err
		})
	})
	hold("Hold", func(wait func()) error {
		return advisorylock.Locker{TTL: 3 * time.Second}.Hold(ctx, db, 3, func(ctx context.Context) error {
			wait()
			<-ctx.Done()
			if cause := context.Cause(ctx); !errors.Is(cause, advisorylock.ErrLost) {
				t.Errorf("Hold: got cause %v; want ErrLost", cause)
			}
			return nil
		})
	})
	hold("Ensure, in Bootstrap", func(wait func()) error {
		return schemaguard.Guard{Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "CREATE TABLE in_bootstrap.first (n int)"); err != nil {
				return err
			}
			wait()
			_, err := tx.ExecContext(ctx, "CREATE TABLE in_bootstrap.second (n int)")
			return err
		}}.Ensure(ctx, db, "in_bootstrap", notReached(t))
	})
	hold("Ensure, at the commit", func(wait func()) error {
		return schemaguard.Guard{Trace: &locktrace.Trace{Start: func(ctx context.Context, e locktrace.Event) context.Context {
			if e.Step == locktrace.Commit {
				wait()
			}
			return ctx
		}}}.Ensure(ctx, db, "at_commit", notReached(t))
	})
	for range holders {
		<-inside
	}
	primary.end(t, signal)
	close(dead)
	for name, done := range holders {
		err := <-done
		if !errors.Is(err, advisorylock.ErrLost) {
			t.Errorf("%s: got %v; want ErrLost", name, err)
		}
		if unknown := strings.Contains(fmt.Sprint(err), "outcome unknown"); unknown != strings.Contains(name, "commit") {
			t.Errorf("%s: got %v; want the outcome unknown after a commit, and only then", name, err)
		}
	}

	admin := open(t, "pgx", standby.dsn())
	replicaExec(t, admin, "SELECT pg_promote()")
	var left int
	if err := admin.QueryRowContext(ctx, "SELECT count(*) FROM pg_namespace WHERE nspname IN ('in_bootstrap', 'at_commit')").Scan(&left); err != nil || left != 0 {
		t.Errorf("got %d schemas, %v; want nothing half-made on the new primary", left, err)
	}
	// The same pool, which is full of dead connections.
	migrated := false
	err := schemaguard.Guard{Serialize: true, Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "CREATE TABLE in_bootstrap.first (n int); CREATE TABLE in_bootstrap.second (n int)")
		return err
	}}.Ensure(ctx, db, "in_bootstrap", func(ctx context.Context, db *sql.DB) error {
		migrated = true
		_, err := db.ExecContext(ctx, "INSERT INTO in_bootstrap.second VALUES (1)")
		return err
	})
	if err != nil || !migrated {
		t.Errorf("got %v, migrated %v on the promoted server; want nil, true", err, migrated)
	}
	for _, schema := range []string{"before", "at_commit"} {
		if err := schemaguard.Ensure(ctx, db, schema, nil); err != nil {
			t.Errorf("%s: got %v on the promoted server; want nil", schema, err)
		}
	}
}

func notReached(t *testing.T) func(context.Context, *sql.DB) error {
	return func(context.Context, *sql.DB) error {
		t.Error("got migrate called; want it left out")
		return nil
	}
}

// replica is one server of a primary with a streaming standby.
type replica struct {
	bin, dir string
	port     int
	pipe     io.Closer
}

// newBeginning makes the files that servers begin with.
func newBeginning(t *testing.T) replica {
	t.Helper()
	bin, root := serverBinaries(t), serverDir(t)
	r := replica{bin: bin, dir: filepath.Join(root, "beginning")}
	serverCommand(t, filepath.Join(bin, "initdb"), "-D", r.dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	return r
}

// newReplicas starts a primary and a standby that streams from it. A copy of a
// server that was shut down in order is a standby's beginning; no pg_basebackup is
// needed, which the npm packages have not.
func newReplicas(t *testing.T, beginning replica) (primary, standby *replica) {
	t.Helper()
	root := serverDir(t)
	primary = &replica{bin: beginning.bin, dir: filepath.Join(root, "primary")}
	standby = &replica{bin: beginning.bin, dir: filepath.Join(root, "standby")}
	serverCommand(t, "cp", "-R", beginning.dir, primary.dir)
	serverCommand(t, "cp", "-R", beginning.dir, standby.dir)
	serverCommand(t, "touch", filepath.Join(standby.dir, "standby.signal"))
	primary.start(t)
	standby.start(t, "primary_conninfo=host=127.0.0.1 user=postgres port="+strconv.Itoa(primary.port))
	return primary, standby
}

// serverDir is a folder that belongs to whom servers run as.
func serverDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "bootlock-standby-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if id := serverUser(t); id != nil {
		if err := os.Chown(dir, int(id.Uid), int(id.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// serverBinaries is the folder of initdb and postgres on this machine.
func serverBinaries(t *testing.T) string {
	t.Helper()
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Reverse(dirs)
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir
		}
	}
	t.Skip("not tested: no server binaries on this machine to make a standby of")
	return ""
}

// serverUser is whom to run servers as when this is root, which they refuse.
func serverUser(t *testing.T) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.ParseUint(u.Uid, 10, 32)
			gid, _ := strconv.ParseUint(u.Gid, 10, 32)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Skip("not tested: root cannot run a server, and there is no user postgres or nobody")
	return nil
}

func serverCommand(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: serverUser(t)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// The shell ends the server and removes its files when this process is gone, and its
// standard input with it.
const replicaScript = `"$@" >"$DIR.log" 2>&1 </dev/null & cat >/dev/null; kill -QUIT $! 2>/dev/null; wait; rm -rf "$DIR" "$DIR.log"`

func (r *replica) start(t *testing.T, settings ...string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	args := []string{"-c", replicaScript, "bootlock-standby", filepath.Join(r.bin, "postgres"), "-D", r.dir}
	for _, s := range append(settings, "listen_addresses=127.0.0.1", "port="+strconv.Itoa(r.port), "unix_socket_directories=", "fsync=off") {
		args = append(args, "-c", s)
	}
	cmd := exec.Command("/bin/sh", args...) // it ends with its pipe
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "DIR="+r.dir, "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: serverUser(t), Setsid: true}
	if r.pipe, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.pipe.Close()
		_ = cmd.Wait()
	})
	db := open(t, "pgx", r.dsn())
	replicaUntil(t, "the server answers; its log is "+r.dir+".log", func() bool { return db.PingContext(t.Context()) == nil })
}

func (r *replica) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

func (r *replica) dsn() string {
	return "postgres://postgres@" + r.addr() + "/postgres?sslmode=disable"
}

// end kills the server and waits until all its processes are gone: the backends of
// a killed postmaster live on for an instant, in which they can even commit.
func (r *replica) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	processes := append(r.backends(t), pid)
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
	replicaUntil(t, "the server is gone", func() bool {
		return !slices.ContainsFunc(processes, func(pid int) bool { return syscall.Kill(pid, 0) == nil })
	})
}

func (r *replica) backends(t *testing.T) (pids []int) {
	t.Helper()
	db := open(t, "pgx", r.dsn())
	rows, err := db.QueryContext(t.Context(), "SELECT pid FROM pg_stat_activity")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return pids
}

// catchUp waits until the standby has replayed what the primary has written.
func (r *replica) catchUp(t *testing.T, primary *replica) {
	t.Helper()
	from, to := open(t, "pgx", primary.dsn()), open(t, "pgx", r.dsn())
	var written string
	if err := from.QueryRowContext(t.Context(), "SELECT pg_current_wal_lsn()::text").Scan(&written); err != nil {
		t.Fatal(err)
	}
	replicaUntil(t, "the standby has caught up", func() bool {
		var there bool
		err := to.QueryRowContext(t.Context(), "SELECT pg_last_wal_replay_lsn() >= '"+written+"'").Scan(&there)
		return err == nil && there
	})
}

func replicaUntil(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("got no end of waiting until %s", what)
		}
	}
}

func replicaExec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
