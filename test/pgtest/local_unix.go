//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/bootlock/bootlock/test/freeport"
)

// localScript makes and runs a cluster, and stops and removes it when the pipe on
// its standard input is closed. SIGQUIT is the immediate shutdown: the data is
// thrown away, and a backend that is itself stopped cannot hold it up. Until the
// server has set its handlers it ignores that signal, as any background process of
// a shell does; SIGTERM before it ends it also then.
const localScript = `
bin=$1 dir=$2
shift 2
exec 3<&0 </dev/null >"$dir/server.log" 2>&1
if "$bin/initdb" -D "$dir/data" -U postgres -A scram-sha-256 --pwfile="$dir/password" \
	-E UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1
then
	"$bin/postgres" -D "$dir/data" "$@" 3<&- &
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

// portTries: between choosing a free port and using it, someone else may take it.
const portTries = 3

func startLocal(ctx context.Context, opts Options) (*Server, error) {
	bin, err := chooseBinDir(opts)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		s, err := startCluster(ctx, bin, opts.Settings)
		if err == nil {
			return s, nil
		}
		if try == portTries || !strings.Contains(err.Error(), "could not bind") {
			return nil, fmt.Errorf("with %s: %w", bin, err)
		}
	}
}

func startCluster(ctx context.Context, bin string, own map[string]string) (*Server, error) {
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := tempDir(cred)
	if err != nil {
		return nil, err
	}
	port, err := freeport.Find()
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	password := random(16)
	if err := writePassword(dir, password, cred); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}

	args := []string{"-c", localScript, "bootlock-pgtest", bin, dir}
	args = append(args, settings(map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(port),
		"unix_socket_directories": "",
	}, own)...)
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir = dir
	cmd.Env = serverEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	dog, err := startWatchdog(cmd)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}

	s := &Server{
		DSN:    dsnURL(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), password),
		Origin: "local binaries in " + bin,
		logText: func(context.Context) (string, error) {
			b, err := os.ReadFile(filepath.Join(dir, "server.log"))
			return string(b), err
		},
		stop: func() error {
			return errors.Join(dog.close(), os.RemoveAll(dir))
		},
	}
	s.Version, err = awaitServer(ctx, s.DSN, func() error { return ended(dir) })
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// ended returns what the server or initdb said last, once it has exited.
func ended(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "ended")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	said, _ := os.ReadFile(filepath.Join(dir, "server.log"))
	if len(said) == 0 {
		said, _ = os.ReadFile(filepath.Join(dir, "initdb.log"))
	}
	return fmt.Errorf("the server did not start: %s", strings.TrimSpace(string(said)))
}

// unprivileged returns whom to run the server as when this process is root, as
// which it refuses to run; nil means this user.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("root cannot run the server, and there is no user postgres or nobody")
}

// tempDir makes the server's folder. Its user must be able to get there, and to
// remove it.
func tempDir(cred *syscall.Credential) (string, error) {
	parent := os.TempDir()
	if cred != nil && !openToAll(parent) {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "bootlock-pgtest-")
	if err != nil || cred == nil {
		return dir, err
	}
	if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
		_ = os.RemoveAll(dir)
		return "", err
	}
	return dir, nil
}

// openToAll reports whether everyone may write to dir and reach it.
func openToAll(dir string) bool {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	for need := fs.FileMode(0o3); ; need = 0o1 {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&need != need {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

func writePassword(dir, password string, cred *syscall.Credential) error {
	path := filepath.Join(dir, "password")
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil || cred == nil {
		return err
	}
	return os.Chown(path, int(cred.Uid), int(cred.Gid))
}

// serverEnv is the environment less what would steer the server (PGDATA and the
// like), with messages in English.
func serverEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C")
}
