package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/bootlock/bootlock/test/await"
)

func TestMain(m *testing.M) {
	if origin := os.Getenv("PGTEST_CHILD"); origin != "" {
		child(origin)
	}
	code := m.Run()
	Shutdown()
	os.Exit(code)
}

// clean takes the user's choice of a server out of the environment, so that the
// test makes its own.
func clean(t *testing.T) {
	t.Helper()
	t.Setenv(EnvDSN, "")
	t.Setenv(EnvOrigin, "")
	if os.Getenv(EnvImage) == "" && haveLocalImage() {
		t.Setenv(EnvImage, localImage)
	}
}

// localImage is what scripts/docker-image.sh makes where there is no registry.
const localImage = "bootlock-postgres:15"

func haveLocalImage() bool {
	pool, closeIdle, err := connectDocker(context.Background())
	if err != nil {
		return false
	}
	defer closeIdle()
	_, err = pool.Client.InspectImage(localImage)
	return err == nil
}

// needDocker skips when no daemon answers, unless BOOTLOCK_REQUIRE_DOCKER is set.
func needDocker(t *testing.T) {
	t.Helper()
	_, closeIdle, err := connectDocker(t.Context())
	if err == nil {
		closeIdle()
		return
	}
	if os.Getenv("BOOTLOCK_REQUIRE_DOCKER") != "" {
		t.Fatalf("BOOTLOCK_REQUIRE_DOCKER is set, but: %v", err)
	}
	t.Skipf("DOCKER NOT TESTED: %v", err)
}

// needLocal skips when there are no server binaries, unless BOOTLOCK_REQUIRE_LOCAL
// is set.
func needLocal(t *testing.T) {
	t.Helper()
	_, err := binDir()
	if err == nil {
		return
	}
	if os.Getenv("BOOTLOCK_REQUIRE_LOCAL") != "" {
		t.Fatalf("BOOTLOCK_REQUIRE_LOCAL is set, but: %v", err)
	}
	t.Skipf("LOCAL BINARIES NOT TESTED: %v", err)
}

func need(t *testing.T, origin string) {
	t.Helper()
	if origin == OriginDocker {
		needDocker(t)
	} else {
		needLocal(t)
	}
}

// recorder collects what Start logs.
type recorder struct {
	sync.Mutex
	lines []string
}

func (r *recorder) logf(format string, args ...any) {
	r.Lock()
	defer r.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *recorder) String() string {
	r.Lock()
	defer r.Unlock()
	return strings.Join(r.lines, "\n")
}

func mustStart(t *testing.T, opts Options) *Server {
	t.Helper()
	if opts.Log == nil {
		opts.Log = t.Logf
	}
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// queryText returns the one value that sql selects.
func queryText(t *testing.T, dsn, sql string, args ...any) string {
	t.Helper()
	var text string
	err := withConn(t.Context(), dsn, func(conn *pgx.Conn) error {
		return conn.QueryRow(t.Context(), sql, args...).Scan(&text)
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// The same story for both origins that start a server: it answers, is reachable
// from this machine only, makes databases and drops them, shows its log, and
// leaves nothing behind when it is stopped.
func TestStartAndStop(t *testing.T) {
	for _, origin := range []string{OriginLocal, OriginDocker} {
		t.Run(origin, func(t *testing.T) {
			clean(t)
			need(t, origin)
			ignore := goleak.IgnoreCurrent()
			ctx := t.Context()

			began := time.Now()
			s := mustStart(t, Options{Origin: origin, Settings: map[string]string{
				"max_connections":            "321",
				"log_min_duration_statement": "0",
			}})
			t.Logf("started in %v", time.Since(began).Round(time.Millisecond))
			goleak.VerifyNone(t, ignore)

			if u, err := url.Parse(s.DSN); err != nil || u.Hostname() != "127.0.0.1" || u.Path != "/postgres" {
				t.Errorf("DSN is %q; want one of 127.0.0.1, database postgres", s.DSN)
			}
			if got := queryText(t, s.DSN, "SHOW server_version"); got != s.Version || got == "" {
				t.Errorf("Version is %q; the server says %q", s.Version, got)
			}
			for setting, want := range map[string]string{"max_connections": "321", "fsync": "off", "is_superuser": "on"} {
				if got := queryText(t, s.DSN, "SELECT current_setting($1)", setting); got != want {
					t.Errorf("%s is %q; want %q", setting, got, want)
				}
			}

			dsn, drop, err := s.CreateDatabase(ctx, "My Prefix")
			if err != nil {
				t.Fatal(err)
			}
			name := queryText(t, dsn, "SELECT current_database()")
			if !strings.HasPrefix(name, "my_prefix_") {
				t.Errorf("the database is %q; want my_prefix_…", name)
			}
			inUse, err := pgx.Connect(ctx, dsn) // drop must not mind
			if err != nil {
				t.Fatal(err)
			}
			drop()
			drop()
			if err := inUse.Ping(ctx); err == nil {
				t.Error("a session outlived its database")
			}
			if got := queryText(t, s.DSN, "SELECT count(*)::text FROM pg_database WHERE datname = $1", name); got != "0" {
				t.Errorf("%s databases called %s after drop; want 0", got, name)
			}

			_ = withConn(ctx, s.DSN, func(conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, "SELECT 1/0 AS looked_for")
				return err
			})
			await.True(t, "the error in the log", func() bool {
				text, err := s.Log(ctx)
				if err != nil {
					t.Fatal(err)
				}
				return strings.Contains(text, "ERROR:  division by zero") && strings.Contains(text, "looked_for")
			})

			gone := footprint(t, origin, s)
			began = time.Now()
			if err := errors.Join(s.Stop(), s.Stop()); err != nil {
				t.Fatal(err)
			}
			t.Logf("stopped in %v", time.Since(began).Round(time.Millisecond))
			if left := gone(); left != "" {
				t.Errorf("after Stop: %s", left)
			}
			goleak.VerifyNone(t, ignore)
			drop() // must not hang on a server that is gone
			if _, _, err := s.CreateDatabase(ctx, "late"); err == nil {
				t.Error("CreateDatabase succeeded after Stop")
			}
		})
	}
}

func TestOriginDSN(t *testing.T) {
	clean(t)
	base := mustStart(t, Options{})
	u, err := url.Parse(base.DSN)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	for name, dsn := range map[string]string{
		"URL":      base.DSN + "&application_name=given",
		"keywords": fmt.Sprintf("host=%s port=%s user=postgres password=%s dbname=postgres sslmode=disable application_name=given", u.Hostname(), u.Port(), password),
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(EnvDSN, dsn)
			var rec recorder
			s := mustStart(t, Options{Log: rec.logf, Settings: map[string]string{"log_statement": "all"}})
			if s.DSN != dsn || s.Origin != "the DSN in BOOTLOCK_TEST_DSN" || s.Version != base.Version {
				t.Errorf("got %q from %q, version %q", s.DSN, s.Origin, s.Version)
			}
			if got := rec.String(); !strings.Contains(got, "[log_statement] are not applied") || strings.Contains(got, password) {
				t.Errorf("logged %q; want a note on log_statement, and no password", got)
			}
			if _, err := s.Log(t.Context()); err == nil {
				t.Error("Log gave the log of a server that is not ours")
			}
			own := s.NewDB(t)
			if got := queryText(t, own, "SELECT current_setting('application_name')"); got != "given" {
				t.Errorf("application_name is %q in a DSN for another database; want given", got)
			}
			if got := queryText(t, own, "SELECT current_database()"); !strings.HasPrefix(got, "testorigindsn_") {
				t.Errorf("NewDB made %q", got)
			}
		})
	}
	if got := queryText(t, base.DSN, "SELECT count(*)::text FROM pg_database WHERE datname LIKE 'testorigin%'"); got != "0" {
		t.Errorf("%s databases are left", got)
	}
}

// A DSN that was asked for and does not work is an error, not a reason to take
// another server.
func TestOriginDSNUnreachable(t *testing.T) {
	clean(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvDSN, "postgres://postgres:secret@"+l.Addr().String()+"/postgres?sslmode=disable")
	_ = l.Close()
	_, err = Start(t.Context(), Options{Log: t.Logf})
	if err == nil || !strings.HasPrefix(err.Error(), "pgtest: start: BOOTLOCK_TEST_DSN is set, but") {
		t.Errorf("got %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows the password: %v", err)
	}
}

// nothing hides Docker and the binaries of this machine.
func nothing(t *testing.T) {
	t.Helper()
	t.Setenv(EnvDSN, "")
	t.Setenv(EnvOrigin, "")
	t.Setenv("DOCKER_MACHINE_NAME", "")
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none.sock"))
}

func TestNoServer(t *testing.T) {
	nothing(t)
	saved := binDirs
	t.Cleanup(func() { binDirs = saved })
	binDirs = func() []string { return []string{t.TempDir()} }

	_, err := Start(t.Context(), Options{Log: t.Logf})
	if err == nil {
		t.Fatal("there was a server")
	}
	for _, want := range []string{"apt-get install postgresql", "start Docker", "set BOOTLOCK_TEST_DSN", "no Docker daemon answers", "no folder with initdb"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	if !errors.Is(err, errNoDaemon) || !errors.Is(err, errNoBinaries) {
		t.Errorf("the causes are not reachable in %#v", err)
	}
}

func TestForced(t *testing.T) {
	nothing(t)
	for name, tc := range map[string]struct {
		opts Options
		want string
	}{
		"dsn":           {Options{Origin: OriginDSN}, "BOOTLOCK_TEST_DSN is not set"},
		"docker":        {Options{Origin: OriginDocker}, "no Docker daemon answers"},
		"folder":        {Options{BinDir: t.TempDir()}, "does not hold initdb and postgres"},
		"contradiction": {Options{BinDir: "/", Origin: OriginDocker}, `Origin must be "local"`},
		"unknown":       {Options{Origin: "cloud"}, `unknown Origin "cloud"`},
	} {
		t.Run(name, func(t *testing.T) {
			tc.opts.Log = t.Logf
			if _, err := Start(t.Context(), tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v; want %q", err, tc.want)
			}
		})
	}
}

// A daemon that hangs must not hold up the tests, nor must a machine without one.
func TestSilentDaemon(t *testing.T) {
	nothing(t)
	socket := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", socket) // nobody accepts
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	began := time.Now()
	if _, _, err := connectDocker(t.Context()); !errors.Is(err, errNoDaemon) {
		t.Errorf("got %v; want %v", err, errNoDaemon)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it took %v; want less than 2 s", d)
	}
}

// An image that cannot be had is a reason to go on, and said.
func TestNoImage(t *testing.T) {
	clean(t)
	needDocker(t)
	needLocal(t)
	t.Setenv(EnvImage, "127.0.0.1:1/none/such:9") // nothing listens there
	var rec recorder
	s := mustStart(t, Options{Log: rec.logf})
	if !strings.HasPrefix(s.Origin, "local binaries in ") {
		t.Errorf("Origin is %q", s.Origin)
	}
	if want := "the image 127.0.0.1:1/none/such:9 is neither there nor can it be pulled"; !strings.Contains(rec.String(), want) {
		t.Errorf("logged %q; want %q", rec.String(), want)
	}
}

// A server that cannot start says why, and is cleaned up at once.
func TestBadSetting(t *testing.T) {
	for _, origin := range []string{OriginLocal, OriginDocker} {
		t.Run(origin, func(t *testing.T) {
			clean(t)
			need(t, origin)
			t.Setenv("TMPDIR", openTempDir(t))
			began := time.Now()
			_, err := Start(t.Context(), Options{Log: t.Logf, Origin: origin, Settings: map[string]string{"no_such_setting": "1"}})
			if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
				t.Errorf("got %v; want the server's words on no_such_setting", err)
			}
			if d := time.Since(began); d > 20*time.Second {
				t.Errorf("it took %v to notice", d)
			}
			if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// The pipe is closed while initdb works, so that the order to stop reaches the
// server in the moment in which it is started. It once was ignored then, and Stop
// waited for ever.
func TestCancelledStart(t *testing.T) {
	clean(t)
	needLocal(t)
	t.Setenv("TMPDIR", openTempDir(t))
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := Start(ctx, Options{Log: t.Logf, Origin: OriginLocal}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want %v", err, context.DeadlineExceeded)
		}
		cancel()
		if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// openTempDir is a folder in which any user may work.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestShared(t *testing.T) {
	a, b := Shared(t), Shared(t)
	if a != b {
		t.Error("two calls of Shared gave two servers")
	}
	one, two := a.NewDB(t), a.NewDB(t)
	if one == two {
		t.Error("two calls of NewDB gave one database")
	}
}

func TestDSNFor(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u:p@h:1/postgres?sslmode=disable": "postgres://u:p@h:1/a%20b?sslmode=disable",
		"postgres://u:p@h:1?dbname=x":                 "postgres://u:p@h:1/a%20b",
		"host=h dbname=x":                             "host=h dbname=x dbname='a b'",
	} {
		s := &Server{DSN: dsn}
		if got := s.DSNFor("a b"); got != want {
			t.Errorf("%s: got %s; want %s", dsn, got, want)
		}
	}
}

func TestDatabaseName(t *testing.T) {
	for prefix, want := range map[string]string{
		"TestX/Größe":            `^testx_gr__e_[0-9a-f]{12}$`,
		"":                       `^t__[0-9a-f]{12}$`,
		"9lives":                 `^t_9lives_[0-9a-f]{12}$`,
		"pg_x":                   `^t_pg_x_[0-9a-f]{12}$`,
		strings.Repeat("x", 100): `^x{40}_[0-9a-f]{12}$`,
	} {
		if got := databaseName(prefix); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%q: got %q; want %s", prefix, got, want)
		}
	}
}

func TestSplitImage(t *testing.T) {
	for image, want := range map[string][2]string{
		"postgres":            {"postgres", "latest"},
		"postgres:17":         {"postgres", "17"},
		"host:5000/a/b":       {"host:5000/a/b", "latest"},
		"host:5000/a/b:17-x3": {"host:5000/a/b", "17-x3"},
	} {
		if repository, tag := splitImage(image); repository != want[0] || tag != want[1] {
			t.Errorf("%s: got %s, %s; want %v", image, repository, tag, want)
		}
	}
}

func TestNewestFirst(t *testing.T) {
	root := t.TempDir()
	for _, v := range []string{"9.6", "15", "18", "13"} {
		if err := os.MkdirAll(filepath.Join(root, v), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(root)
	if got, want := newestFirst("*"), []string{"18", "15", "13", "9.6"}; !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
}
