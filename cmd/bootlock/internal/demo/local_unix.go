//go:build unix

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/child"
)

// watchdog ends the server and removes its data when the demo is gone, however
// it ended: the demo has the other end of its standard input. SIGQUIT is the
// immediate shutdown; until the server has set its handlers, it ends of SIGTERM.
const watchdog = `
cat >/dev/null
kill -TERM "$1"; kill -QUIT "$1"
while kill -0 "$1"; do sleep 0.1; done
rm -rf "$2"
`

// startLocal starts a server from the binaries on this machine. It listens on a
// Unix socket in a folder that is its own, and so needs neither a port nor a
// password.
func startLocal(ctx context.Context) (_ *server, err error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	who, err := unprivileged()
	if err != nil {
		return nil, err
	}
	folder, err := ownFolder(who)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	data := filepath.Join(folder, "data")
	initdb := command(bin, "initdb", folder, who, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if said, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, said)
	}
	postgres := command(bin, "postgres", folder, who,
		append([]string{"-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories=" + folder}, settings...)...)
	var said strings.Builder
	postgres.Stdout, postgres.Stderr = &said, &said
	if err := postgres.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = postgres.Wait()
	}()
	stop, err := child.StartWatchdog(exec.Command("/bin/sh", "-c", watchdog, "bootlock-demo", strconv.Itoa(postgres.Process.Pid), folder))
	if err != nil {
		_ = postgres.Process.Kill()
		<-ended
		return nil, err
	}
	s := &server{origin: "the binaries in " + bin, stop: stop}
	s.dsn = (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", RawQuery: url.Values{"host": {folder}}.Encode()}).String()
	if err := s.await(ctx, ended); err != nil {
		s.stop()
		return nil, fmt.Errorf("the server in %s: %w: %s", bin, err, strings.TrimSpace(said.String()))
	}
	return s, nil
}

// command runs a program of the server in a session of its own, out of reach of
// a Ctrl-C that is meant for the demo.
func command(bin, name, folder string, who *syscall.Credential, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Dir = folder
	for _, setting := range os.Environ() { // PGDATA and the like would steer it
		if !strings.HasPrefix(setting, "PG") && !strings.HasPrefix(setting, "LC_") && !strings.HasPrefix(setting, "LANG") {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: who}
	return cmd
}

// unprivileged returns whom to run the server as if this process is root, as
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
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("root cannot run the server, and there is no user postgres or nobody")
}

// ownFolder makes the server's folder, which nobody else can enter. Its name is
// short, since that of a Unix socket may not be long.
func ownFolder(who *syscall.Credential) (string, error) {
	folder, err := os.MkdirTemp("/tmp", "bootlock-demo-")
	if err != nil || who == nil {
		return folder, err
	}
	if err := os.Chown(folder, int(who.Uid), int(who.Gid)); err != nil {
		return "", errors.Join(err, os.RemoveAll(folder))
	}
	return folder, nil
}
