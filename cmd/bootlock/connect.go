package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/server"
)

const connectionHelp = `The database is the one that --dsn names, else DATABASE_URL, else the one that
psql would take: PGHOST and its like, the service file, ~/.pgpass. Prefer these
to --dsn with a password in it, which other users of the machine can see in ps.`

// connect returns a database that answers.
func (a *app) connect(ctx context.Context, command string) (*server.Server, error) {
	s, err := a.open(command, false)
	if err != nil {
		return nil, err
	}
	return s, a.await(ctx, s, server.Patience{Server: a.waitForServer}, &progress{log: a.log, begun: time.Now()})
}

// connectToLock returns a database where a lock is a lock: a primary that keeps
// what it grants. While it has no free connection, it is waited for, for as long
// as room lasts.
func (a *app) connectToLock(ctx context.Context, command string, room time.Duration, p *progress) (*server.Server, error) {
	s, err := a.open(command, true)
	if err != nil {
		return nil, err
	}
	if err := a.await(ctx, s, server.Patience{Server: a.waitForServer, Room: room}, p); err != nil {
		return nil, err
	}
	if err = s.Prove(ctx); err == nil {
		return s, nil
	}
	_ = s.Close()
	var late *timeoutError
	switch {
	case errors.Is(err, server.ErrNoLock):
		err = &exitError{code: exitOwn, err: err}
	case errors.As(context.Cause(ctx), &late):
		err = &server.UnreachableError{Server: s.Address, Waited: late.after, Err: server.ErrSilent}
	}
	return nil, a.failure(ctx, err)
}

// await returns when s answers; if it does not, s is closed.
func (a *app) await(ctx context.Context, s *server.Server, patience server.Patience, p *progress) error {
	err := s.Await(ctx, patience, func(err error) { p.server(s.Address, err) })
	if err != nil {
		_ = s.Close()
	}
	return a.failure(ctx, err)
}

func (a *app) open(command string, locks bool) (*server.Server, error) {
	text, origin := a.dsn, "--dsn"
	if text == "" {
		text, origin = os.Getenv("DATABASE_URL"), "DATABASE_URL"
	}
	if text == "" {
		origin = "the PG* environment"
	}
	config, err := dsn.Parse(text)
	if err != nil {
		return nil, usage("%s cannot be read: %w", origin, err)
	}
	a.log.config = config
	dropped := func(names []string) {
		a.log.say(fmt.Sprintf("not used: %s in %s", strings.Join(names, ", "), origin), "not used", slog.Any("keywords", names))
	}
	if len(config.Dropped) > 0 {
		dropped(config.Dropped)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = applicationName(command)
	}
	return server.Open(config, locks, dropped), nil
}

// applicationName tells people who look at pg_stat_activity where to look next.
func applicationName(command string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	if n := len(host); n > 30 { // of 63 bytes, and the end of a pod's name is its own
		host = host[:12] + ".." + host[n-16:]
	}
	return fmt.Sprintf("bootlock %s (%s, pid %d)", command, host, os.Getpid())
}
