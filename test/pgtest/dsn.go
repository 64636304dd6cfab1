package pgtest

import (
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// parse returns a DSN that was looked at before: each is a URL.
func parse(dsn string) *url.URL {
	u, err := url.Parse(dsn)
	if err != nil {
		panic("pgtest: " + err.Error())
	}
	return u
}

// WithParams adds parameters, given as name, value, name, value…, to a DSN.
func WithParams(dsn string, params ...string) string {
	u := parse(dsn)
	q := u.Query()
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20") // pgx takes a plus as it is
	return u.String()
}

// WithUser is dsn as another user.
func WithUser(dsn, user, password string) string {
	u := parse(dsn)
	u.User = url.UserPassword(user, password)
	return u.String()
}

// WithAddr is dsn by way of another address.
func WithAddr(dsn, addr string) string {
	u := parse(dsn)
	u.Host = addr
	return u.String()
}

// Addr is the host and port that a DSN leads to.
func Addr(dsn string) (string, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))), nil
}
