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
	return a.dial(ctx, command, false, server.Patience{Server: a.waitForServer})
}

// connectToLock returns a database where a lock is a lock: a primary that keeps
// what it grants. While it has no free connection, it is waited for, for as long
// as patience lasts.
func (a *app) connectToLock(ctx context.Context, command string, patience time.Duration) (*server.Server, error) {
	s, err := a.dial(ctx, command, true, server.Patience{Server: a.waitForServer, Room: patience})
	if err != nil {
		return nil, err
	}
	err = s.Prove(ctx)
	if errors.Is(err, server.ErrNoLock) {
		err = &exitError{code: exitOwn, err: err}
	}
	if err != nil {
		_ = s.Close()
		return nil, a.failure(ctx, err)
	}
	return s, nil
}

func (a *app) dial(ctx context.Context, command string, locks bool, patience server.Patience) (*server.Server, error) {
	config, err := a.config(command)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	s := server.Open(config, locks)
	var nextSay time.Time
	err = s.Await(ctx, patience, func(waited time.Duration, err error) {
		if time.Now().Before(nextSay) {
			return
		}
		nextSay = time.Now().Add(10 * time.Second)
		a.log.say(fmt.Sprintf("waiting for the server at %s: %v", s.Address, err), "waiting for the server",
			slog.String("server", s.Address), seconds("waited_seconds", waited), slog.String("error", a.log.redact(err.Error())))
	})
	if err != nil {
		_ = s.Close()
		return nil, a.failure(ctx, err)
	}
	return s, nil
}

func (a *app) config(command string) (*dsn.Config, error) {
	text, origin := a.dsn, "--dsn"
	if text == "" {
		text, origin = os.Getenv("DATABASE_URL"), "DATABASE_URL"
	}
	if text == "" {
		origin = "the PG* environment"
	}
	config, err := dsn.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", origin, err)
	}
	a.log.secret = config.Secret()
	if len(config.Dropped) > 0 {
		a.log.say(fmt.Sprintf("not used: %s in %s", strings.Join(config.Dropped, ", "), origin),
			"not used", slog.Any("keywords", config.Dropped))
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = applicationName(command)
	}
	return config, nil
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
