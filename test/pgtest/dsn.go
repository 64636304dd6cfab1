package pgtest

import (
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// WithParams adds parameters, given as name, value, name, value…, to a DSN.
func WithParams(dsn string, params ...string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" {
		// Of two settings of the same name the drivers take the last.
		for i := 0; i < len(params); i += 2 {
			dsn += " " + params[i] + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(params[i+1]) + "'"
		}
		return dsn
	}
	q := u.Query()
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20") // pgx takes a plus as it is
	return u.String()
}

// WithUser is dsn as another user.
func WithUser(dsn, user, password string) string {
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		u.User = url.UserPassword(user, password)
		return u.String()
	}
	return WithParams(dsn, "user", user, "password", password)
}

// WithAddr is dsn by way of another address.
func WithAddr(dsn, addr string) string {
	u, err := url.Parse(dsn)
	if err == nil && u.Scheme != "" {
		u.Host = addr
		return u.String()
	}
	host, port, _ := strings.Cut(addr, ":")
	return WithParams(dsn, "host", host, "port", port)
}

// Addr is the host and port that a DSN leads to.
func Addr(dsn string) (string, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))), nil
}
