package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/internal/sqlstate"
)

const connectionHelp = `The database is the one that --dsn names, else DATABASE_URL, else the one that
psql would take: PGHOST and its like, the service file, ~/.pgpass. Prefer these
to --dsn with a password in it, which other users of the machine can see in ps.`

// attemptTime bounds one attempt to connect, if connect_timeout does not.
const attemptTime = 10 * time.Second

// connect returns a pool on a server that answers.
func (a *app) connect(ctx context.Context, command string) (*sql.DB, error) {
	config, err := a.config(command)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	db := stdlib.OpenDB(*config)
	if err := a.awaitServer(ctx, db, address(config)); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func (a *app) config(command string) (*pgx.ConnConfig, error) {
	dsn, origin := a.dsn, "--dsn"
	if dsn == "" {
		dsn, origin = os.Getenv("DATABASE_URL"), "DATABASE_URL"
	}
	if dsn == "" {
		origin = "the PG* environment"
	}
	dsn = plainScheme(dsn)
	if ambiguous(dsn) {
		return nil, fmt.Errorf("%s cannot be read: %s", origin, encodeHint)
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %s", origin, parseProblem(err))
	}
	a.log.hide(config)
	for _, name := range foreignParams {
		delete(config.RuntimeParams, name)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = applicationName(command)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = attemptTime
	}
	// Works through every pooler, and leaves no statement behind.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	return config, nil
}

// foreignParams are what Prisma puts into DATABASE_URL for itself. The server
// would refuse them as settings that it does not know.
var foreignParams = []string{
	"schema", "connection_limit", "pool_timeout", "socket_timeout", "pgbouncer", "statement_cache_size", "sslaccept", "sslidentity",
}

// plainScheme takes the driver out of SQLAlchemy's "postgresql+psycopg://".
func plainScheme(dsn string) string {
	scheme, rest, isURL := strings.Cut(dsn, "://")
	name, _, hasDriver := strings.Cut(scheme, "+")
	if isURL && hasDriver && (name == "postgresql" || name == "postgres") {
		return name + "://" + rest
	}
	return dsn
}

const encodeHint = "in a URL, special characters in user and password must be percent-encoded, such as %40 for @ and %2F for /"

// ambiguous reports whether a URL has an @ where the parser would take a part of
// the password for the host or the database, which errors show.
func ambiguous(dsn string) bool {
	_, rest, isURL := strings.Cut(dsn, "://")
	if !isURL {
		return false
	}
	userinfo, _, _ := strings.Cut(rest, "?")
	first, last := strings.IndexAny(userinfo, "@/"), strings.LastIndex(userinfo, "@")
	return last >= 0 && first != last
}

// parseProblem says what is wrong with a DSN without showing any of it: what the
// parser says has parts of the text in it, and those may be parts of a password.
func parseProblem(err error) string {
	text := err.Error()
	for _, known := range []string{
		"invalid port", "invalid sslcertmode", "invalid connect_timeout", "invalid require_auth",
		"unknown target_session_attrs", "invalid min_protocol_version", "invalid max_protocol_version",
		"unknown channel_binding", "sslmode is invalid", "failed to read service", "failed to configure TLS",
	} {
		if strings.Contains(text, known) {
			return known + "; " + encodeHint
		}
	}
	return "it is neither a URL nor a list of key=value; " + encodeHint
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

func address(config *pgx.ConnConfig) string {
	if strings.HasPrefix(config.Host, "/") {
		return config.Host
	}
	return net.JoinHostPort(config.Host, fmt.Sprint(config.Port))
}

// awaitServer connects, and with --wait-for-server tries again while there is
// no server yet, or it says that it is starting.
func (a *app) awaitServer(ctx context.Context, db *sql.DB, server string) error {
	begun := time.Now()
	nextSay := begun
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return a.failure(ctx, err)
		}
		waited := time.Since(begun)
		if waited >= a.waitForServer || !notYetUp(err) {
			return unreachable(err, waited)
		}
		if !time.Now().Before(nextSay) {
			a.log.waitingForServer(server, waited, err)
			nextSay = time.Now().Add(10 * time.Second)
		}
		select {
		case <-time.After(min(pause, a.waitForServer-waited)):
		case <-ctx.Done():
		}
	}
}

// notYetUp reports whether err may go away when the server has started. An
// answer such as a wrong password does not.
func notYetUp(err error) bool {
	code := sqlstate.Of(err)
	return code == "" || code == "53300" || sqlstate.Lost(err)
}

func unreachable(err error, waited time.Duration) error {
	if sqlstate.Of(err) != "" {
		return &exitError{exitUnreachable, fmt.Errorf("the server refused the connection: %w", err)}
	}
	after := ""
	if waited > time.Second {
		after = fmt.Sprintf(" in %v", waited.Round(time.Second))
	}
	return &exitError{exitUnreachable, fmt.Errorf("the server could not be reached%s: %w", after, err)}
}

// isUnreachable reports whether err says that there is no server, or no longer.
func isUnreachable(err error) bool {
	var connect *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &connect) || errors.As(err, &network) || sqlstate.Lost(err)
}

var dsnSecrets = []*regexp.Regexp{
	regexp.MustCompile(`(://[^:/@\s]*:)[^\s]*(@)`),
	regexp.MustCompile(`(?i)(password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]*)`),
}

const hidden = "xxxxx"

// redact takes out what looks like the password of a DSN, wherever it comes
// from. It is the second line: nothing is meant to print one.
func redact(text string) string {
	for _, secret := range dsnSecrets {
		text = secret.ReplaceAllString(text, "${1}"+hidden+"${2}")
	}
	return text
}

// hide makes l leave out the password of config. One that is also a name in it
// cannot be told from that name.
func (l *logger) hide(config *pgx.ConnConfig) {
	if config.Password != "" && !slices.Contains([]string{config.User, config.Database, config.Host}, config.Password) {
		l.secret = config.Password
	}
}
