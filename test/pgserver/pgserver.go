// Package pgserver runs PostgreSQL servers, and programs beside them, from the binaries
// on this machine. They are gone when this process is, however it ends.
//
// Package pgtest and the demo command share it. It needs nothing that the command does
// not link anyway.
package pgserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// startTimeout bounds the wait for a server to answer, when ctx does not.
const startTimeout = 60 * time.Second

// Await polls until the server at dsn answers, and returns its version. alive
// returns an error when the server can no longer come up.
func Await(ctx context.Context, dsn string, alive func() error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		v, err := Version(ctx, dsn)
		if err == nil {
			return v, nil
		}
		if dead := alive(); dead != nil {
			return "", dead
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the server does not answer: %w (%w)", err, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Version asks the server at dsn once for its server_version.
func Version(ctx context.Context, dsn string) (v string, err error) {
	err = withConn(ctx, dsn, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SHOW server_version", pgx.QueryExecModeSimpleProtocol).Scan(&v)
	})
	return v, err
}

// Exec runs a statement on a connection of its own.
func Exec(ctx context.Context, dsn, statement string) error {
	return withConn(ctx, dsn, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement)
		return err
	})
}

func withConn(ctx context.Context, dsn string, fn func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	return fn(conn)
}

// FirstBinDir returns the first folder that has the binaries of a server.
func FirstBinDir(dirs []string) (string, error) {
	if i := slices.IndexFunc(dirs, HasBinaries); i >= 0 {
		return dirs[i], nil
	}
	return "", errors.New("no folder with initdb and postgres found (pg_config --bindir, /usr/lib/postgresql/*/bin, PATH and the usual others)")
}

// BinDirs returns where server binaries may be, in the order of preference.
// pg_config comes with client packages too, so what it names may not be there.
func BinDirs() []string {
	var dirs []string
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	dirs = append(dirs, newestFirst("/usr/lib/postgresql/*/bin")...) // Debian
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/pgsql-*/bin",                         // PGDG on Red Hat
		"/usr/libexec/postgresql*",                 // Alpine
		"/opt/homebrew/opt/postgresql*/bin",        // Homebrew
		"/usr/local/opt/postgresql*/bin",           // Homebrew on Intel
		"/home/linuxbrew/.linuxbrew/opt/*sql*/bin", // Homebrew on Linux
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/usr/local/pgsql/bin", // built from source
	} {
		dirs = append(dirs, newestFirst(pattern)...)
	}
	return dirs
}

func newestFirst(pattern string) []string {
	dirs, _ := filepath.Glob(pattern) // the patterns are well formed
	slices.Reverse(dirs)              // all versions that are tested have two digits
	return dirs
}

// HasBinaries reports whether dir holds initdb and postgres.
func HasBinaries(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}

// clusterScript makes and runs a cluster, and stops and removes it when the pipe on
// its standard input is closed. SIGQUIT is the immediate shutdown: the data is
// thrown away, and a backend that is itself stopped cannot hold it up. Until the
// server has set its handlers it ignores that signal, as any background process of
// a shell does; SIGTERM before it ends it also then.
const clusterScript = `
bin=$1 dir=$2
shift 2
exec 3<&0 </dev/null >"$dir/server.log" 2>&1
if "$bin/initdb" -D "$dir/data" -U postgres -A scram-sha-256 --pwfile="$dir/password" \
	-E UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1
then
	"$bin/postgres" -D "$dir/data" -c unix_socket_directories="$dir" "$@" 3<&- &
	server=$!
	{
		cat <&3 >/dev/null
		[ -e "$dir/ended" ] || { kill -TERM "$server"; kill -QUIT "$server"; }
	} &
	exec 3<&-
	wait "$server"
	: >"$dir/ended"
else
	: >"$dir/ended"
	cat <&3 >/dev/null
fi
wait
rm -rf "$dir"
`

// Cluster is a server with data of its own.
type Cluster struct {
	Dir      string // closed to others; its Unix socket is here unless the arguments say otherwise
	Password string // of the superuser postgres

	stop func() error
}

// Start makes a cluster and starts its server with the binaries in bin. It does not
// wait until the server answers; see [Await].
func Start(bin string, args ...string) (*Cluster, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Dir: dir, Password: rand.Text()}
	err = os.WriteFile(filepath.Join(dir, "password"), []byte(c.Password+"\n"), 0o644) //nolint:gosec // the folder is closed to others
	if err == nil {
		c.stop, err = Run(dir, clusterScript, append([]string{bin, dir}, args...)...)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

// Log returns what the server has logged so far.
func (c *Cluster) Log() (string, error) {
	b, err := os.ReadFile(filepath.Join(c.Dir, "server.log"))
	return string(b), err
}

// Ended returns what the server or initdb said last, once it has exited.
func (c *Cluster) Ended() error {
	if _, err := os.Stat(filepath.Join(c.Dir, "ended")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	said, _ := c.Log()
	if said == "" {
		initdb, _ := os.ReadFile(filepath.Join(c.Dir, "initdb.log"))
		said = string(initdb)
	}
	return fmt.Errorf("the server did not start: %s", strings.TrimSpace(said))
}

// Stop ends the server at once, and removes its data.
func (c *Cluster) Stop() error { return errors.Join(c.stop(), os.RemoveAll(c.Dir)) }
