// Package dsn reads the name of a database as psql would, and as the tools that
// share DATABASE_URL with psql write it.
package dsn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Config is where to connect, and what was left out on the way there.
type Config struct {
	*pgx.ConnConfig
	Dropped []string // what means nothing to the driver or the server
}

// Parse reads text, a URL or a list of key=value; empty means the PG*
// environment. Its errors show nothing of text, since any part of it may be a
// part of a password.
func Parse(text string) (*Config, error) {
	text = plainScheme(strings.TrimSpace(text))
	switch scheme, rest, isURL := strings.Cut(text, ":"); {
	case isURL && strings.EqualFold(scheme, "jdbc"):
		return nil, errors.New("it is a JDBC URL; leave out jdbc:, and put user and password before the host: postgres://user:password@host:5432/database")
	case isURL && strings.HasPrefix(rest, "//") && scheme != "postgres" && scheme != "postgresql":
		return nil, errors.New("it is a URL of something else than PostgreSQL; write postgres://")
	case adoNet.MatchString(text):
		return nil, errors.New("its parts are separated by semicolons; separate them by blanks, or write postgres://user:password@host:5432/database")
	case misread(text):
		return nil, errors.New(encodeHint)
	}
	config, err := parse(text)
	if err != nil {
		return nil, errors.New(problem(text, err))
	}
	dropped, err := drop(config.RuntimeParams)
	return &Config{config, dropped}, err
}

// adoNet is how .NET writes a list.
var adoNet = regexp.MustCompile(`(?i)^(?:host|server)\s*=[^;'\s]*;`)

func parse(text string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(text)
	if err != nil && strings.Contains(err.Error(), "sslmode is invalid") {
		// node-postgres encrypts and does not verify with no-verify, as libpq with require.
		config, err = pgx.ParseConfig(strings.Replace(text, "sslmode=no-verify", "sslmode=require", 1))
	}
	if err != nil {
		return nil, err
	}
	if demandsTLS(config.RuntimeParams["ssl"]) && !strings.Contains(text, "sslmode") {
		text = with(text, "sslmode", "require")
		if config, err = pgx.ParseConfig(text); err != nil {
			return nil, err
		}
	}
	// libpq takes PGHOSTADDR even where a DSN names a host.
	address := cmp.Or(config.RuntimeParams["hostaddr"], os.Getenv("PGHOSTADDR"))
	delete(config.RuntimeParams, "hostaddr")
	if address != "" {
		return hostaddr(config, text, address)
	}
	return config, nil
}

// hostaddr connects to address in place of the host's, which is then only for TLS to
// verify, unless it is the driver's default.
func hostaddr(config *pgx.ConnConfig, text, address string) (*pgx.ConnConfig, error) {
	var err error
	switch {
	case strings.HasPrefix(config.Host, "/") || config.Host == "localhost":
		if config, err = pgx.ParseConfig(with(text, "host", address)); err != nil {
			return nil, err
		}
		delete(config.RuntimeParams, "hostaddr")
	case net.ParseIP(address) == nil || slices.ContainsFunc(config.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.Host != config.Host }):
		return nil, errors.New(oneAddress)
	default:
		config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{address}, nil }
	}
	return config, nil
}

const oneAddress = "hostaddr is one IP address, for one host"

// demandsTLS reports whether ssl=…, which Node.js and asyncpg write, asks for it.
func demandsTLS(ssl string) bool {
	return ssl != "" && !slices.Contains([]string{"false", "0", "off", "no", "disable", "allow", "prefer"}, strings.ToLower(ssl))
}

// demanding are keywords of libpq that ask for something that the driver does not
// do, so that a connection without it is not what was asked for.
var demanding = []string{
	"requirepeer", "sslcrl", "sslcrldir", "ssl_min_protocol_version", "ssl_max_protocol_version", "replication",
	"oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope",
}

// foreign are what libpq and other tools put into a connection string for themselves,
// or how it begins. The server would refuse each of them with a line in its log.
var foreign = regexp.MustCompile(`^(?:(?:x-|pool_|keepalives).*|schema|connection_limit|socket_timeout|pgbouncer|pool|prepared_statements|` +
	`prefer_simple_protocol|gssencmode|tcp_user_timeout|fallback_application_name|load_balance_hosts|ssl)$`)

var utf8 = regexp.MustCompile(`(?i)^utf-?8$`)

// drop takes out of params what no server takes for a setting of its own. What it
// does not find the server will name; see [Config.Drop].
func drop(params map[string]string) (dropped []string, err error) {
	for name, value := range params {
		switch {
		case slices.Contains(demanding, name), name == "gssencmode" && value == "require":
			return nil, errors.New(name + " is not supported here")
		case foreign.MatchString(name), name == "client_encoding" && !utf8.MatchString(value):
			delete(params, name)
			dropped = append(dropped, name)
		}
	}
	slices.Sort(dropped)
	return dropped, nil
}

// Drop leaves out what the server, or a pooler, has refused as a setting: what
// libpq or another tool puts into a connection string for itself. It returns the
// names, or none if err says something else.
func (c *Config) Drop(err error) (dropped []string) {
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Code != "42704" && server.Code != "08P01" {
		return nil
	}
	for name := range c.RuntimeParams {
		if regexp.MustCompile(`(?:^|[^\w.-])` + regexp.QuoteMeta(name) + `(?:$|[^\w.-])`).MatchString(server.Message) {
			delete(c.RuntimeParams, name)
			dropped = append(dropped, name)
		}
	}
	slices.Sort(dropped)
	return dropped
}

// with is text with one more parameter.
func with(text, name, value string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" {
		return text + " " + name + "=" + value
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// plainScheme takes for postgres:// what other tools write in its place, such as
// SQLAlchemy's postgresql+psycopg://.
func plainScheme(text string) string {
	scheme, rest, isURL := strings.Cut(text, "://")
	name, _, _ := strings.Cut(strings.ToLower(scheme), "+")
	if isURL && slices.Contains([]string{"postgres", "postgresql", "postgis", "ecto", "pg", "pgsql", "psql", "pgx", "pgx4", "pgx5", "timescaledb"}, name) {
		return "postgres://" + rest
	}
	return text
}

const encodeHint = "in a URL, special characters in user and password must be percent-encoded, such as %40 for @ and %2F for /"

// misread reports whether a URL has an @ where the parser would take a part of
// the password for the host, the database or a parameter, which errors show.
func misread(text string) bool {
	_, rest, isURL := strings.Cut(text, "://")
	if !isURL {
		return false
	}
	path, query, _ := strings.Cut(rest, "?")
	name, _, _ := strings.Cut(query, "=")
	first, last := strings.IndexAny(path, "@/"), strings.LastIndex(path, "@")
	return last >= 0 && first != last || last < 0 && strings.Contains(name, "@")
}

// encoded reports whether all of a URL before its last @ is as it must be.
func encoded(text string) bool {
	_, rest, isURL := strings.Cut(text, "://")
	user := rest[:max(0, strings.LastIndex(rest, "@"))]
	_, err := url.PathUnescape(user)
	return !isURL || err == nil && !strings.ContainsAny(user, "/?#[] ")
}

// problem says what is wrong without showing any of the text: what the parser
// says has parts of it.
func problem(text string, err error) string {
	what := "it is neither a URL nor a list of key=value"
	if i := slices.IndexFunc(problems, func(known string) bool { return strings.Contains(err.Error(), known) }); i >= 0 {
		what = problems[i]
	} else if strings.Contains(text, "://") {
		what = "it is not a valid URL"
	}
	if !encoded(text) {
		what += "; " + encodeHint
	}
	return what
}

// problems are those of what the parser says that have nothing of the text in them.
var problems = []string{
	oneAddress, "invalid port", "invalid sslcertmode", "invalid connect_timeout", "invalid require_auth",
	"unknown target_session_attrs", "invalid min_protocol_version", "invalid max_protocol_version",
	"unknown channel_binding", "sslmode is invalid", "failed to read service", "failed to configure TLS",
}

// Address is where config connects to first, for people.
func (c *Config) Address() string {
	if strings.HasPrefix(c.Host, "/") {
		return c.Host
	}
	return net.JoinHostPort(c.Host, fmt.Sprint(c.Port))
}
