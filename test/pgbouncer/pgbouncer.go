// Package pgbouncer starts PgBouncer, for tests.
package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/test/freeport"
	"github.com/bootlock/bootlock/test/pgserver"
	"github.com/bootlock/bootlock/test/pgtest"
)

// Pooler is a PgBouncer in front of one server.
type Pooler struct {
	host string // and port
	dir  string
	stop func() error
}

// ErrMissing says that the program is not installed.
var ErrMissing = errors.New("pgbouncer is not installed")

// The shell ends PgBouncer and removes its files when this process ends, however it
// does: then its standard input is closed.
const bouncerScript = `pgbouncer -q "$1/pgbouncer.ini" >"$1/log" 2>&1 & cat >/dev/null; kill -INT $!; wait; rm -rf "$1"`

// Plenty is a size with more server connections than any test needs.
const Plenty = 60

// New starts PgBouncer in a pool mode in front of server, until the test ends, with
// size server connections for each database and user, and with other settings, as
// in "idle_transaction_timeout = 2". The superuser of the server and
// [pgtest.WeakRole] may pass. Without the program the test is skipped, or fails if
// BOOTLOCK_REQUIRE_PGBOUNCER is 1.
func New(t *testing.T, server *pgtest.Server, mode string, size int, settings ...string) *Pooler {
	t.Helper()
	b, err := Start(t.Context(), server, mode, size, settings...)
	if errors.Is(err, ErrMissing) && os.Getenv("BOOTLOCK_REQUIRE_PGBOUNCER") != "1" {
		t.Skipf("not tested: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

// Start is New for those who stop the pooler themselves. Without the program the
// error is [ErrMissing].
func Start(ctx context.Context, server *pgtest.Server, mode string, size int, settings ...string) (*Pooler, error) {
	if _, err := exec.LookPath("pgbouncer"); err != nil {
		return nil, ErrMissing
	}
	dsn, err := url.Parse(server.DSN)
	if err != nil {
		return nil, err
	}
	dir, err := pgserver.Dir()
	if err != nil {
		return nil, err
	}
	b := &Pooler{dir: dir, stop: func() error { return nil }}
	if err := b.run(ctx, dsn, mode, size, settings); err != nil {
		b.Stop()
		return nil, fmt.Errorf("pgbouncer: %w", err)
	}
	return b, nil
}

func (b *Pooler) run(ctx context.Context, server *url.URL, mode string, size int, settings []string) error {
	port, err := freeport.Find()
	if err != nil {
		return err
	}
	b.host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	password, _ := server.User.Password()
	users := fmt.Sprintf("%q %q\n%q %q\n", server.User.Username(), password, pgtest.WeakRole, pgtest.WeakPassword)
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = md5
auth_file = %s/users
pool_mode = %s
default_pool_size = %d
max_client_conn = 2000
ignore_startup_parameters = extra_float_digits
%s
`, server.Hostname(), server.Port(), port, b.dir, mode, size, strings.Join(settings, "\n"))
	for name, text := range map[string]string{"pgbouncer.ini": config, "users": users} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // the folder is closed to others
			return err
		}
	}
	stop, err := pgserver.Run(b.dir, bouncerScript, b.dir)
	if err != nil {
		return err
	}
	b.stop = stop
	if _, err := pgserver.Await(ctx, b.DSN(server.String()), func() error { return nil }); err != nil {
		return fmt.Errorf("%w: %s", err, b.Log())
	}
	return nil
}

// DSN is dsn through the pooler.
func (b *Pooler) DSN(dsn string) string { return pgtest.WithAddr(dsn, b.host) }

// Log is what the pooler has logged so far.
func (b *Pooler) Log() string {
	said, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return string(said)
}

// Stop ends the pooler and removes its files.
func (b *Pooler) Stop() {
	_ = b.stop()
	_ = os.RemoveAll(b.dir)
}
