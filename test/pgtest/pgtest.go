// Package pgtest provides a throwaway PostgreSQL server for tests.
//
// [Start] takes the first of these that can be had:
//
//  1. the server that BOOTLOCK_TEST_DSN names;
//  2. a container, if a Docker daemon answers: the image in
//     BOOTLOCK_POSTGRES_IMAGE, or else the official one;
//  3. the server binaries on this machine.
//
// A server that it starts listens on the loopback interface only, and is gone
// after [Server.Stop], and also after the process is killed.
//
// Tests call [Shared] and [Server.NewDB]; TestMain calls [Shutdown].
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/test/pgserver"
)

// Environment variables that say which server to use.
const (
	EnvDSN    = "BOOTLOCK_TEST_DSN"       // the URL of a server that is there already, as a superuser
	EnvImage  = "BOOTLOCK_POSTGRES_IMAGE" // the image for a container
	EnvOrigin = "BOOTLOCK_TEST_ORIGIN"    // what [Options].Origin is when it is empty
)

// DefaultImage is the image used when BOOTLOCK_POSTGRES_IMAGE is not set.
const DefaultImage = "postgres:17"

// What [Options].Origin may hold.
const (
	OriginDSN    = "dsn"
	OriginDocker = "docker"
	OriginLocal  = "local"
)

// startTimeout bounds the wait for a server to answer, when ctx does not.
const startTimeout = 60 * time.Second

// Options say what to start. The zero value is ready to use.
type Options struct {
	// Log gets progress, and which server was taken. Nil means lines on stderr.
	Log func(format string, args ...any)

	// Settings are configuration parameters of the server, such as
	// log_min_messages. They are not applied to a server given by a DSN; Log
	// says so.
	Settings map[string]string

	// BinDir is the folder of the server binaries to use (initdb and postgres).
	// It implies Origin "local". Empty means: look for them.
	BinDir string

	// Origin is "dsn", "docker" or "local" to allow nothing else; empty means
	// BOOTLOCK_TEST_ORIGIN, and without that the first that can be had, in that
	// order.
	Origin string
}

// Server is a PostgreSQL server that answers. Its methods may be called
// concurrently; its fields are not to be changed.
type Server struct {
	DSN     string // URL of the database postgres (or of the one in the given DSN), as a superuser
	Origin  string // where the server comes from, for people
	Version string // server_version as the server reports it

	logf    func(format string, args ...any)
	own     instance // nil: not ours
	stopped atomic.Bool
}

// Start returns a server that accepts connections. The caller stops it. Without
// any server to be had the error says how to get one.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = func(format string, args ...any) {
			fmt.Fprintf(os.Stderr, "pgtest: "+format+"\n", args...)
		}
	}
	if opts.BinDir != "" {
		opts.Origin = OriginLocal
	} else if opts.Origin == "" {
		opts.Origin = os.Getenv(EnvOrigin)
	}

	s, err := start(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("pgtest: start: %w", err)
	}
	s.logf = opts.Log
	opts.Log("PostgreSQL %s from %s", s.Version, s.Origin)
	return s, nil
}

func start(ctx context.Context, opts Options) (*Server, error) {
	switch opts.Origin {
	case OriginDSN:
		return useDSN(ctx, opts)
	case OriginDocker:
		return startDocker(ctx, opts)
	case OriginLocal:
		return startLocal(ctx, opts)
	case "":
	default:
		return nil, fmt.Errorf("unknown Origin %q", opts.Origin)
	}

	if os.Getenv(EnvDSN) != "" {
		return useDSN(ctx, opts)
	}
	s, dockerErr := startDocker(ctx, opts)
	if dockerErr == nil {
		return s, nil
	}
	opts.Log("not Docker: %v", dockerErr)
	s, localErr := startLocal(ctx, opts)
	if localErr == nil {
		return s, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf(`no PostgreSQL to be had. Any one of these will do:
	- install the server binaries: apt-get install postgresql, dnf install postgresql-server, brew install postgresql
	- start Docker (and let it have the image %s, or name another in %s)
	- set %s to the URL of a server, as a superuser: postgres://user:password@host:5432/postgres
what was tried:
	- %[3]s is not set
	- Docker: %[4]w
	- local binaries: %[5]w`, DefaultImage, EnvImage, EnvDSN, dockerErr, localErr)
}

func useDSN(ctx context.Context, opts Options) (*Server, error) {
	s := &Server{DSN: os.Getenv(EnvDSN), Origin: "the DSN in " + EnvDSN}
	if u, err := url.Parse(s.DSN); err != nil || u.Scheme == "" {
		return nil, errors.New(EnvDSN + " is not a URL such as postgres://user:password@host:5432/postgres")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	if s.Version, err = pgserver.Version(ctx, s.DSN); err != nil {
		return nil, fmt.Errorf("%s is set, but its server does not answer: %w", EnvDSN, err)
	}
	if len(opts.Settings) > 0 {
		opts.Log("the server is not ours: the settings %v are not applied", slices.Sorted(maps.Keys(opts.Settings)))
	}
	return s, nil
}

// Log returns what the server has logged so far. For a server given by a DSN it
// is an error.
func (s *Server) Log() (string, error) {
	if s.own == nil {
		return "", fmt.Errorf("pgtest: log: cannot read the log of %s", s.Origin)
	}
	return s.own.Log()
}

// Stop stops the server at once and removes its data; a server given by a DSN is
// left alone.
func (s *Server) Stop() error {
	s.stopped.Store(true)
	if s.own == nil {
		return nil
	}
	if err := s.own.Stop(); err != nil {
		return fmt.Errorf("pgtest: stop: %w", err)
	}
	return nil
}

// settings returns the server's command-line arguments. fsync is off because the
// data is thrown away, and 300 connections are room for the tests that race.
func settings(own ...map[string]string) []string {
	all := map[string]string{"fsync": "off", "full_page_writes": "off", "max_connections": "300"}
	for _, m := range own {
		maps.Copy(all, m)
	}
	var args []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "-c", k+"="+all[k])
	}
	return args
}
