//go:build unix

package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgserver"
)

func TestMain(m *testing.M) {
	if origin := os.Getenv("PGTEST_CHILD"); origin != "" {
		child(origin)
	}
	m.Run()
}

// need takes the user's choice of a server out of the environment. Without a server of
// the origin here the test is skipped, unless a variable requires it.
func need(t *testing.T, origin string) {
	t.Helper()
	t.Setenv(EnvDSN, "")
	t.Setenv(EnvOrigin, "")
	_, err := BinDir()
	if origin == OriginDocker {
		err = pgserver.PingDocker(t.Context())
	}
	if err != nil && os.Getenv("BOOTLOCK_REQUIRE_"+strings.ToUpper(origin)) != "" {
		t.Fatal(err)
	} else if err != nil {
		t.Skipf("%s NOT TESTED: %v", strings.ToUpper(origin), err)
	}
}

// forEach runs test with each origin that starts a server.
func forEach(t *testing.T, test func(t *testing.T, origin string)) {
	t.Helper()
	for _, origin := range []string{OriginLocal, OriginDocker} {
		t.Run(origin, func(t *testing.T) {
			need(t, origin)
			test(t, origin)
		})
	}
}

func mustStart(t *testing.T, opts Options) *Server {
	t.Helper()
	opts.Log = t.Logf
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
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // nothing was changed
	var text string
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// A server answers, with the settings asked for, makes databases and drops them though
// they are in use, shows its log, and leaves nothing behind when it is stopped.
func TestStartAndStop(t *testing.T) {
	forEach(t, func(t *testing.T, origin string) {
		ignore := goleak.IgnoreCurrent()
		s := mustStart(t, Options{Origin: origin, Settings: map[string]string{"max_connections": "321"}})
		for setting, want := range map[string]string{"server_version": s.Version, "max_connections": "321", "fsync": "off", "is_superuser": "on"} {
			if got := queryText(t, s.DSN, "SELECT current_setting($1)", setting); got != want {
				t.Errorf("%s is %q; want %q", setting, got, want)
			}
		}

		dsn, drop, err := s.CreateDatabase(t.Context(), "My Prefix/Größe")
		if err != nil {
			t.Fatal(err)
		}
		inUse, err := pgx.Connect(t.Context(), WithParams(dsn, "application_name", "a b"))
		if err != nil {
			t.Fatal(err)
		}
		const database = "SELECT string_agg(datname, ' ') FROM pg_stat_activity WHERE application_name = 'a b'"
		if name := queryText(t, s.DSN, database); !strings.HasPrefix(name, "t_my_prefix_gr__e_") {
			t.Errorf("the database is %q; want t_my_prefix_gr__e_…", name)
		}
		drop()
		if err := inUse.Ping(t.Context()); err == nil {
			t.Error("a session outlived its database")
		}
		await.True(t, "the end of that session in the log", func() bool {
			text, err := s.Log()
			return err == nil && strings.Contains(text, "terminating connection due to administrator command")
		})

		left := footprint(t, s.DSN)
		if err := errors.Join(s.Stop(), s.Stop()); err != nil || left() != "" {
			t.Errorf("after Stop, which returned %v: %s", err, left())
		}
		goleak.VerifyNone(t, ignore)
		drop() // must not hang on a server that is gone
	})
}

// Without any server the error says how to get one, and so it does of one that was
// asked for.
func TestNoServer(t *testing.T) {
	saved := binDirs
	t.Cleanup(func() { binDirs = saved })
	binDirs = func() []string { return []string{t.TempDir()} }
	for _, name := range []string{EnvDSN, EnvOrigin} {
		t.Setenv(name, "")
	}
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none.sock"))
	for want, opts := range map[string]Options{
		"apt-get install postgresql": {},
		"no Docker daemon answers":   {Origin: OriginDocker},
		"BOOTLOCK_TEST_DSN is not a": {Origin: OriginDSN},
		"no folder with initdb":      {Origin: OriginLocal},
		"does not hold initdb":       {BinDir: t.TempDir()},
		"unknown Origin":             {Origin: "cloud"},
	} {
		opts.Log = t.Logf
		if _, err := Start(t.Context(), opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v; want %q", opts, err, want)
		}
	}
}

// A server that cannot start says why.
func TestBadSetting(t *testing.T) {
	forEach(t, func(t *testing.T, origin string) {
		_, err := Start(t.Context(), Options{Log: t.Logf, Origin: origin, Settings: map[string]string{"no_such_setting": "1"}})
		if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
			t.Errorf("got %v; want the server's words on no_such_setting", err)
		}
	})
}

// The pipe is closed while initdb works, so that the order to stop reaches the
// server in the moment in which it is started. It once was ignored then, and Stop
// waited for ever.
func TestCancelledStart(t *testing.T) {
	need(t, OriginLocal)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := Start(ctx, Options{Log: t.Logf, Origin: OriginLocal}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want %v", err, context.DeadlineExceeded)
		}
		cancel()
	}
}

// footprint returns a function that says what is left of the server, or nothing.
func footprint(t *testing.T, dsn string) (left func() string) {
	t.Helper()
	data := queryText(t, dsn, "SHOW data_directory") // in a container it is nowhere here
	return func() string {
		if _, err := pgserver.Version(context.Background(), dsn); err == nil {
			return "it answers"
		}
		if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
			return data + " is still there"
		}
		return ""
	}
}

// child is what the test binary does when it is started again by TestKilled: it
// starts a server and a process of its own that outlives it, says so, and waits
// to be killed.
func child(origin string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Start(ctx, Options{Origin: origin})
	heir := exec.Command("sleep", "120")
	if err := errors.Join(err, heir.Start()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.DSN, heir.Process.Pid)
	<-ctx.Done()
	os.Exit(1)
}

// SIGKILL leaves the process no chance to clean up. A child of it that lives on
// must not keep the server alive either: it would if it had inherited the end of
// the watchdog's pipe.
func TestKilled(t *testing.T) {
	forEach(t, func(t *testing.T, origin string) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "PGTEST_CHILD="+origin)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err := errors.Join(err, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		var dsn string
		var heir int
		if _, err := fmt.Fscanln(bufio.NewReader(out), &dsn, &heir); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(heir, syscall.SIGKILL) })

		left := footprint(t, dsn)
		if left() == "" {
			t.Fatal("the server cannot be seen while it runs, so that this test would prove nothing")
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		await.True(t, "gone", func() bool { return left() == "" })
		if err := syscall.Kill(heir, 0); err != nil {
			t.Errorf("the heir is gone too, so that this test proved too little: %v", err)
		}
	})
}
