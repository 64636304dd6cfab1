package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/bootlock/bootlock/test/pgserver"
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
func startServer(ctx context.Context, dsn string) (s *server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if dsn != "" {
		s = &server{dsn: dsn, origin: "the server that --dsn names", stop: func() {}}
		s.version, err = pgserver.Version(ctx, dsn)
		return s, err
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

// startLocal starts a server from the binaries on this machine. It listens on a
// Unix socket in a folder that is its own, and so needs no port.
func startLocal(ctx context.Context) (*server, error) {
	bin, err := pgserver.FirstBinDir(pgserver.BinDirs())
	if err != nil {
		return nil, err
	}
	cluster, err := pgserver.Start(bin, append([]string{"-c", "listen_addresses="}, settings...)...)
	if err != nil {
		return nil, err
	}
	dsn := (&url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", cluster.Password), Path: "/postgres", RawQuery: url.Values{"host": {cluster.Dir}}.Encode(),
	}).String()
	return started(ctx, "the binaries in "+bin, dsn, cluster.Ended, cluster.Stop)
}

func startContainer(ctx context.Context) (*server, error) {
	container, err := pgserver.StartContainer(ctx, image, settings...)
	if err != nil {
		return nil, err
	}
	return started(ctx, "the image "+image, container.DSN, container.Ended, container.Stop)
}

// started returns a server once it answers.
func started(ctx context.Context, origin, dsn string, ended, stop func() error) (*server, error) {
	s := &server{origin: origin, dsn: dsn, stop: func() { _ = stop() }}
	var err error
	if s.version, err = pgserver.Await(ctx, dsn, ended); err != nil {
		s.stop()
		return nil, fmt.Errorf("the server from %s: %w", origin, err)
	}
	return s, nil
}

// createDatabase makes an empty database and returns its DSN. drop removes it.
func (s *server) createDatabase(ctx context.Context) (dsn string, drop func(), err error) {
	name := "bootlock_demo_" + strings.ToLower(rand.Text()[:10])
	// Not template1: one session in it is enough to make CREATE DATABASE fail.
	if err := pgserver.Exec(ctx, s.dsn, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return "", nil, err
	}
	return withDatabase(s.dsn, name), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		_ = pgserver.Exec(ctx, s.dsn, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
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
