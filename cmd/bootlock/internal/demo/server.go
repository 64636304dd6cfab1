package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// image is what the container runs where this machine has no server binaries.
const image = "postgres:17"

const startTime = time.Minute

// server is a PostgreSQL that the demo may make databases on.
type server struct {
	dsn, version, origin string

	stop func()
}

// settings suit data that is thrown away, and many processes at once.
var settings = []string{
	"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=300",
}

// startServer returns the server at dsn, or starts one: from the binaries on
// this machine, else in a container. The caller stops it.
func startServer(ctx context.Context, dsn string) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if dsn != "" {
		s := &server{dsn: dsn, origin: "the server that --dsn names", stop: func() {}}
		return s, s.askVersion(ctx)
	}
	s, local := startLocal(ctx)
	if local == nil {
		return s, nil
	}
	s, docker := startContainer(ctx)
	if docker == nil {
		return s, nil
	}
	return nil, fmt.Errorf(`no PostgreSQL to show the race on. Any one of these will do:
  - install the server's binaries: apt-get install postgresql, dnf install postgresql-server, brew install postgresql
  - start Docker
  - name a server where the demo may create databases: --dsn postgres://user:password@host:5432/postgres
What was tried:
  - binaries on this machine: %w
  - Docker: %w`, local, docker)
}

// await waits until the server answers; ended is closed when it no longer can.
func (s *server) await(ctx context.Context, ended <-chan struct{}) error {
	for {
		err := s.askVersion(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *server) askVersion(ctx context.Context) error {
	return withConn(ctx, s.dsn, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SHOW server_version", pgx.QueryExecModeSimpleProtocol).Scan(&s.version)
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

// createDatabase makes an empty database and returns its DSN. drop removes it.
func (s *server) createDatabase(ctx context.Context) (dsn string, drop func(), err error) {
	name := "bootlock_demo_" + strings.ToLower(rand.Text()[:10])
	exec := func(ctx context.Context, statement string) error {
		return withConn(ctx, s.dsn, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, statement)
			return err
		})
	}
	// Not template1: one session in it is enough to make CREATE DATABASE fail.
	if err := exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return "", nil, err
	}
	return withDatabase(s.dsn, name), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		_ = exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
	}, nil
}

// withDatabase returns dsn for another database. It also names sslmode where dsn
// does not: without it lib/pq insists on TLS, and pgx does not.
func withDatabase(dsn, name string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" {
		// Of two settings of the same name the drivers take the last.
		if !strings.Contains(dsn, "sslmode") {
			dsn += " sslmode=prefer"
		}
		return dsn + " dbname=" + name
	}
	u.Path = "/" + name
	q := u.Query()
	q.Del("dbname")
	q.Del("database")
	if q.Get("sslmode") == "" {
		q.Set("sslmode", "prefer")
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// binaries returns the folder of initdb and postgres. What pg_config names need
// not be there: it comes with client packages too.
func binaries() (string, error) {
	var folders []string
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		folders = append(folders, strings.TrimSpace(string(out)))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			folders = append(folders, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",                // Debian
		"/usr/pgsql-*/bin",                         // PGDG on Red Hat
		"/usr/libexec/postgresql*",                 // Alpine
		"/opt/homebrew/opt/postgresql*/bin",        // Homebrew
		"/usr/local/opt/postgresql*/bin",           // Homebrew on Intel
		"/home/linuxbrew/.linuxbrew/opt/*sql*/bin", // Homebrew on Linux
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/usr/local/pgsql/bin", // built from source
	} {
		found, _ := filepath.Glob(pattern) // the patterns are well formed
		slices.Reverse(found)              // the newest first, from version 10 on
		folders = append(folders, found...)
	}
	for _, folder := range folders {
		if isFile(filepath.Join(folder, "initdb")) && isFile(filepath.Join(folder, "postgres")) {
			return folder, nil
		}
	}
	return "", errors.New("no folder with initdb and postgres was found")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
