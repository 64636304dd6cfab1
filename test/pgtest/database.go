package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bootlock/bootlock/test/pgserver"
)

// CreateDatabase creates an empty database whose name begins with prefix, and
// returns a DSN for it. drop ends the sessions that are still in it and removes
// it; it has a time limit of its own, and after [Server.Stop] it does nothing.
func (s *Server) CreateDatabase(ctx context.Context, prefix string) (dsn string, drop func(), err error) {
	name := databaseName(prefix)
	quoted := pgx.Identifier{name}.Sanitize()

	// Not template1: one session in it is enough to make CREATE DATABASE fail.
	if err := s.exec(ctx, "CREATE DATABASE "+quoted+" TEMPLATE template0"); err != nil {
		return "", nil, fmt.Errorf("pgtest: create database: %w", err)
	}
	drop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for {
			err := s.exec(ctx, "DROP DATABASE IF EXISTS "+quoted+" WITH (FORCE)")
			if err == nil || s.stopped.Load() {
				return
			}
			// A pool that reconnects in a loop can get in between.
			select {
			case <-ctx.Done():
				s.logf("drop database %s: %v", name, err)
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return s.DSNFor(name), drop, nil
}

// DSNFor returns [Server].DSN with another database in it.
func (s *Server) DSNFor(database string) string {
	u := parse(s.DSN)
	u.Path = "/" + database
	q := u.Query()
	q.Del("dbname")
	q.Del("database")
	u.RawQuery = q.Encode()
	return u.String()
}

func (s *Server) exec(ctx context.Context, sql string) error {
	if s.stopped.Load() {
		return fmt.Errorf("the server is stopped")
	}
	return pgserver.Exec(ctx, s.DSN, sql)
}

// databaseName keeps what needs no quoting, so that a test's name can be the
// prefix and the result can be typed in psql.
func databaseName(prefix string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(prefix))
	return "t_" + name[:min(len(name), 40)] + "_" + random()
}

func random() string { return strings.ToLower(rand.Text()[:12]) }
