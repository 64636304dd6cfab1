package matrix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/conformance"
	"github.com/bootlock/bootlock/test/pgtest"
)

// PgBouncer is a pooler in front of one server.
type PgBouncer struct {
	host string // and port
	dir  string
	cmd  *exec.Cmd
	pipe io.Closer
}

// errNoPgBouncer says that the program is not installed.
var errNoPgBouncer = errors.New("pgbouncer is not installed")

// The shell ends PgBouncer and removes its files when this process ends, however it
// does: then its standard input is closed.
const bouncerScript = `pgbouncer -q "$1/pgbouncer.ini" >"$1/log" 2>&1 & cat >/dev/null; kill -INT $!; wait; rm -rf "$1"`

// PoolSize is more server connections than any test needs.
const PoolSize = 60

// NewPgBouncer starts PgBouncer in front of the server of all tests, until the test
// ends. Without the program the test is skipped, or fails if
// BOOTLOCK_REQUIRE_PGBOUNCER is 1.
func NewPgBouncer(t *testing.T, mode string, size int) *PgBouncer {
	t.Helper()
	b, err := startPgBouncer(t.Context(), pgtest.Shared(t).DSN, mode, size)
	if errors.Is(err, errNoPgBouncer) && os.Getenv("BOOTLOCK_REQUIRE_PGBOUNCER") != "1" {
		t.Skipf("not tested: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

// startPgBouncer starts PgBouncer in a pool mode in front of the server at dsn,
// with size server connections for each database and user. The superuser of dsn
// and the role without rights may pass.
func startPgBouncer(ctx context.Context, dsn, mode string, size int) (*PgBouncer, error) {
	if _, err := exec.LookPath("pgbouncer"); err != nil {
		return nil, errNoPgBouncer
	}
	server, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "bootlock-pgbouncer-")
	if err != nil {
		return nil, err
	}
	b := &PgBouncer{dir: dir}
	if err := b.start(ctx, server, mode, size); err != nil {
		b.Stop()
		return nil, fmt.Errorf("pgbouncer: %w", err)
	}
	return b, nil
}

func (b *PgBouncer) start(ctx context.Context, server *url.URL, mode string, size int) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	b.host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	password, _ := server.User.Password()
	users := fmt.Sprintf("%q %q\n%q %q\n", server.User.Username(), password, conformance.WeakRole, conformance.WeakPassword)
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
`, server.Hostname(), server.Port(), port, b.dir, mode, size)
	for name, text := range map[string]string{"pgbouncer.ini": config, "users": users} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	b.cmd = exec.Command("/bin/sh", "-c", bouncerScript, "bootlock-pgbouncer", b.dir)
	if err := asUnprivileged(b.cmd, b.dir); err != nil {
		return err
	}
	if b.pipe, err = b.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := b.cmd.Start(); err != nil {
		b.cmd = nil
		return err
	}
	return b.await(ctx)
}

func (b *PgBouncer) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.host)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			said, _ := os.ReadFile(filepath.Join(b.dir, "log"))
			return fmt.Errorf("does not answer: %w: %s", err, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// DSN is dsn through the pooler.
func (b *PgBouncer) DSN(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic("matrix: " + err.Error())
	}
	u.Host = b.host
	return u.String()
}

// Stop ends the pooler and removes its files.
func (b *PgBouncer) Stop() {
	if b.cmd != nil {
		_ = b.pipe.Close()
		_ = b.cmd.Wait()
	}
	_ = os.RemoveAll(b.dir)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
