// Package dsn reads the name of a database as psql would, and as the tools that
// share DATABASE_URL with psql write it.
package dsn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Config is where to connect, and what was left out on the way there.
type Config struct {
	*pgx.ConnConfig
	Dropped []string // keywords of libpq that mean nothing to the driver
}

// Parse reads text, a URL or a list of key=value; empty means the PG*
// environment. Its errors show nothing of text, since any part of it may be a
// part of a password.
func Parse(text string) (*Config, error) {
	text = plainScheme(text)
	if scheme, _, isURL := strings.Cut(text, ":"); isURL && strings.EqualFold(scheme, "jdbc") {
		return nil, errors.New("it is a JDBC URL; leave out jdbc:, and put user and password before the host: postgres://user:password@host:5432/database")
	}
	if ambiguous(text) {
		return nil, errors.New(encodeHint)
	}
	config, err := parse(text)
	if err != nil {
		return nil, errors.New(problem(err))
	}
	return config, nil
}

func parse(text string) (*Config, error) {
	config, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, err
	}
	if addresses := hostaddr(config); addresses != "" && !namesHost(text) {
		if config, err = pgx.ParseConfig(withHost(text, addresses)); err != nil {
			return nil, err
		}
		delete(config.RuntimeParams, "hostaddr")
	} else if err := dial(config, addresses); err != nil {
		return nil, err
	}
	for _, name := range foreign {
		delete(config.RuntimeParams, name)
	}
	dropped, err := drop(config.RuntimeParams)
	return &Config{config, dropped}, err
}

// foreign is what other tools put into DATABASE_URL for themselves: Prisma,
// SQLAlchemy, Rails, node-postgres. The server would refuse these as settings
// that it does not know.
var foreign = []string{
	"schema", "connection_limit", "pool_timeout", "socket_timeout", "pgbouncer", "statement_cache_size", "sslaccept", "sslidentity",
	"prepared_statement_cache_size", "async_fallback",
	"pool", "prepared_statements", "encoding", "checkout_timeout", "reaping_frequency", "idle_timeout",
	"uselibpqcompat",
}

var (
	// harmless are keywords of libpq that only tune a connection.
	harmless = []string{
		"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
		"gsslib", "gssdelegation", "sslcompression", "requiressl", "sslkeylogfile", "load_balance_hosts",
		"fallback_application_name", "scram_client_key", "scram_server_key",
	}
	// demanding are those that ask for something that the driver does not do, so
	// that a connection without it is not what was asked for.
	demanding = []string{
		"requirepeer", "sslcrl", "sslcrldir", "ssl_min_protocol_version", "ssl_max_protocol_version", "replication",
		"oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope",
	}
)

// drop takes out of params what the driver has taken for settings of the server
// although it is for libpq.
func drop(params map[string]string) (dropped []string, err error) {
	for name, value := range params {
		switch {
		case slices.Contains(demanding, name), name == "gssencmode" && value == "require":
			return nil, unsupportedError(name)
		case slices.Contains(harmless, name), name == "gssencmode", name == "client_encoding" && !isUTF8(value):
			delete(params, name)
			dropped = append(dropped, name)
		}
	}
	slices.Sort(dropped)
	return dropped, nil
}

func isUTF8(encoding string) bool {
	return strings.EqualFold(strings.ReplaceAll(encoding, "-", ""), "UTF8")
}

// unsupportedError names a keyword that is not supported.
type unsupportedError string

func (e unsupportedError) Error() string {
	return string(e) + " is not supported here"
}

// hostaddr is the address to connect to in place of the host's, which is then
// only for TLS to verify. libpq takes PGHOSTADDR even where a DSN names a host.
func hostaddr(config *pgx.ConnConfig) string {
	if address := config.RuntimeParams["hostaddr"]; address != "" {
		return address
	}
	return os.Getenv("PGHOSTADDR")
}

// namesHost reports whether the host comes from text or the environment, and not
// from a default.
func namesHost(text string) bool {
	if os.Getenv("PGHOST") != "" || os.Getenv("PGSERVICE") != "" {
		return true
	}
	if u, err := url.Parse(text); err == nil && u.Scheme != "" {
		return u.Host != "" || u.Query().Has("host") || u.Query().Has("service")
	}
	for word := range strings.FieldsSeq(text) {
		if name, _, ok := strings.Cut(word, "="); ok && (name == "host" || name == "service") {
			return true
		}
	}
	return false
}

func withHost(text, host string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" {
		return text + " host=" + host
	}
	q := u.Query()
	q.Set("host", host)
	u.RawQuery = q.Encode()
	return u.String()
}

// dial makes config connect to addresses, one for each host.
func dial(config *pgx.ConnConfig, addresses string) error {
	delete(config.RuntimeParams, "hostaddr")
	if addresses == "" {
		return nil
	}
	hosts := []string{config.Host}
	for _, f := range config.Fallbacks {
		if !slices.Contains(hosts, f.Host) { // there is one for each way to do TLS, too
			hosts = append(hosts, f.Host)
		}
	}
	list := strings.Split(addresses, ",")
	if len(list) != len(hosts) {
		return errors.New("hostaddr has not one address for each host")
	}
	address := map[string]string{}
	for i, host := range hosts {
		if net.ParseIP(list[i]) == nil {
			return errors.New("hostaddr is not an IP address")
		}
		address[host] = list[i]
	}
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{address[host]}, nil }
	return nil
}

// plainScheme takes the driver out of SQLAlchemy's "postgresql+psycopg://".
func plainScheme(text string) string {
	scheme, rest, isURL := strings.Cut(text, "://")
	name, _, hasDriver := strings.Cut(scheme, "+")
	if isURL && hasDriver && (name == "postgresql" || name == "postgres") {
		return name + "://" + rest
	}
	return text
}

const encodeHint = "in a URL, special characters in user and password must be percent-encoded, such as %40 for @ and %2F for /"

// ambiguous reports whether a URL has an @ where the parser would take a part of
// the password for the host or the database, which errors show.
func ambiguous(text string) bool {
	_, rest, isURL := strings.Cut(text, "://")
	if !isURL {
		return false
	}
	userinfo, _, _ := strings.Cut(rest, "?")
	first, last := strings.IndexAny(userinfo, "@/"), strings.LastIndex(userinfo, "@")
	return last >= 0 && first != last
}

// problem says what is wrong without showing any of the text: what the parser
// says has parts of it.
func problem(err error) string {
	var unsupported unsupportedError
	if errors.As(err, &unsupported) {
		return unsupported.Error()
	}
	text := err.Error()
	for _, known := range []string{
		"hostaddr is not an IP address", "hostaddr has not one address for each host",
	} {
		if text == known {
			return known
		}
	}
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

// Address is where config connects to first, for people.
func (c *Config) Address() string {
	if strings.HasPrefix(c.Host, "/") {
		return c.Host
	}
	return net.JoinHostPort(c.Host, fmt.Sprint(c.Port))
}
