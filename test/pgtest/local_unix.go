//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
	bin := opts.BinDir
	if bin == "" {
		var err error
		if bin, err = BinDir(); err != nil {
			return nil, err
		}
	} else if !hasBinaries(bin) {
		return nil, fmt.Errorf("%s does not hold initdb and postgres", bin)
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
	port, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	dir, err := ServerDir()
	if err != nil {
		return nil, err
	}
	password := random(16)
	args := append([]string{bin, dir}, settings(map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(port),
		"unix_socket_directories": "",
	}, own)...)
	err = os.WriteFile(filepath.Join(dir, "password"), []byte(password+"\n"), 0o644) //nolint:gosec // the folder is closed to others
	stop := func() error { return nil }
	if err == nil {
		stop, err = RunServer(dir, localScript, args...)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}

	s := &Server{
		DSN:    dsnURL(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), password),
		Origin: "local binaries in " + bin,
		logText: func(context.Context) (string, error) {
			b, err := os.ReadFile(filepath.Join(dir, "server.log"))
			return string(b), err
		},
		stop: func() error { return errors.Join(stop(), os.RemoveAll(dir)) },
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
