package dsn_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
)

// noEnvironment keeps what the machine has set out of a test.
func noEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE"} {
		t.Setenv(name, "")
	}
}

// What other tools put into DATABASE_URL for themselves the server refuses as a
// setting that it does not know, or a pooler does, by name.
func TestDrop(t *testing.T) {
	noEnvironment(t)
	for _, test := range []struct {
		code, message string
		dropped       []string
	}{
		{"42704", `unrecognized configuration parameter "checkout_timeout"`, []string{"checkout_timeout"}},
		{"42704", "unbekannter Konfigurationsparameter »async-fallback«", []string{"async-fallback"}},
		{"08P01", "unsupported startup parameter: other", []string{"other"}},
		{"08P01", "unsupported startup parameters: other, checkout_timeout", []string{"checkout_timeout", "other"}},
		{"22023", `invalid value for parameter "search_path"`, nil},
	} {
		config, err := dsn.Parse("postgres://u@h/d?checkout_timeout=4&checkout=1&async-fallback=m&other=1&search_path=a")
		if err != nil {
			t.Fatal(err)
		}
		before := len(config.RuntimeParams)
		got := config.Drop(&pgconn.PgError{Code: test.code, Message: test.message})
		if !slices.Equal(got, test.dropped) || len(config.RuntimeParams) != before-len(got) {
			t.Errorf("%s: got %q dropped, %v left; want %q", test.message, got, config.RuntimeParams, test.dropped)
		}
	}
}

// Other ways to write a connection string mean the same.
func TestFormsOfOthers(t *testing.T) {
	noEnvironment(t)
	for _, text := range []string{
		"postgresql+psycopg://u@h/d", "postgis://u@h/d", "ecto://u@h/d", "pgx5://u@h/d", "PostgreSQL://u@h/d",
		" postgres://u@h/d\n", "host=h user=u dbname=d\r\n",
		"postgres://u@h/d?client_encoding=auto", "postgres://u@h/d?ssl=false",
		"postgres://u@h/d?pool_max_conns=4&x-migrations-table=m&keepalives_idle=1&schema=public&prefer_simple_protocol=true",
	} {
		config, err := dsn.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if len(config.RuntimeParams) > 0 || config.User != "u" || config.Host != "h" || config.Database != "d" {
			t.Errorf("%s: got user %q, host %q, database %q, settings %v", text, config.User, config.Host, config.Database, config.RuntimeParams)
		}
	}
	for _, text := range []string{"postgres://u@h/d?ssl=true", "postgres://u@h/d?ssl=require", "postgres://u@h/d?sslmode=no-verify", "host=h user=u ssl=true"} {
		config, err := dsn.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if config.TLSConfig == nil || len(config.Fallbacks) > 0 || len(config.RuntimeParams) > 0 {
			t.Errorf("%s: got a connection that need not be encrypted, or settings %v", text, config.RuntimeParams)
		}
	}
}

// The password's encoding is blamed where it may be the cause, and only there.
func TestEncodingIsBlamed(t *testing.T) {
	noEnvironment(t)
	for text, want := range map[string]bool{
		"postgres://u:p@h:port/d":        false,
		"postgres://u:p@h/d?sslmode=odd": false,
		"host=h port=x password=a@b":     false,
		"words":                          false,
		"postgres://u:hun?ter@h/d":       true,
		"postgres://u:hun%ter@h/d":       true,
		"postgres://u:1?hunter@h":        true,
	} {
		_, err := dsn.Parse(text)
		if err == nil || strings.Contains(err.Error(), "percent-encoded") != want {
			t.Errorf("%s: got %v; want encoding blamed: %t", text, err, want)
		}
	}
}

// What asks for more than the driver does is refused: to leave it out would be
// to connect in another way than was asked for.
func TestRefused(t *testing.T) {
	noEnvironment(t)
	for text, want := range map[string]string{
		"postgres://u@h/d?requirepeer=postgres": "requirepeer is not supported",
		"postgres://u@h/d?sslcrl=/crl":          "sslcrl is not supported",
		"postgres://u@h/d?gssencmode=require":   "gssencmode is not supported",
		"jdbc:postgresql://h/d?user=u":          "JDBC",
		"JDBC:postgresql://h/d?user=u":          "JDBC",
		"mysql://u@h/d":                         "something else than PostgreSQL",
		"Host=h;Port=1;Password=hunter2":        "semicolons",
		"host=h;port=1;password=hunter2":        "semicolons",
		"host=h hostaddr=example.org":           "one IP address, for one host",
		"host=a,b hostaddr=127.0.0.1":           "one IP address, for one host",
		// The parser would take what follows the first @ or / for the host.
		"postgres://u:hun@hunter2@h/d": "percent-encoded",
		"postgres://u:hun/hunter2@h/d": "percent-encoded",
	} {
		_, err := dsn.Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v; want %q in it", text, err, want)
		}
	}
}

// hostaddr is where to connect, and host then only what TLS verifies.
func TestHostaddr(t *testing.T) {
	for _, test := range []struct{ text, env, host, address string }{
		{"host=db.example hostaddr=192.0.2.1 user=u", "", "db.example", "192.0.2.1"},
		{"postgres://u@db.example/d?hostaddr=192.0.2.1", "", "db.example", "192.0.2.1"},
		{"postgres://u@db.example/d", "192.0.2.2", "db.example", "192.0.2.2"},
		{"postgres://u@db.example/d?hostaddr=192.0.2.1", "192.0.2.2", "db.example", "192.0.2.1"},
		{"", "192.0.2.2", "192.0.2.2", ""},
		{"user=u dbname=d", "192.0.2.2", "192.0.2.2", ""},
		{"postgres:///d?hostaddr=192.0.2.1", "", "192.0.2.1", ""},
	} {
		noEnvironment(t)
		t.Setenv("PGHOSTADDR", test.env)
		config, err := dsn.Parse(test.text)
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		if config.Host != test.host {
			t.Errorf("%q, PGHOSTADDR=%s: got host %q; want %q", test.text, test.env, config.Host, test.host)
		}
		if test.address == "" {
			continue
		}
		got, err := config.LookupFunc(context.Background(), config.Host)
		if err != nil || !slices.Equal(got, []string{test.address}) {
			t.Errorf("%q, PGHOSTADDR=%s: got %v, %v to connect to; want %s", test.text, test.env, got, err, test.address)
		}
	}
}

// The second line: nothing is meant to print a password, and what does is caught
// here.
func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"dial postgres://user:hunter2@h:5432/db failed":    "dial postgres://user:xxxxx@h:5432/db failed",
		"postgres://user:hun@ter2@h/db":                    "postgres://user:xxxxx@h/db",
		"host=h password=hunter2 user=u":                   "host=h password=xxxxx user=u",
		`host=h PASSWORD = 'hun \' ter2' user=u`:           "host=h PASSWORD = xxxxx user=u",
		"postgres://h/db?password=hunter2&sslmode=disable": "postgres://h/db?password=xxxxx&sslmode=disable",
		"nothing secret: user@host":                        "nothing secret: user@host",
	} {
		if got := (*dsn.Config)(nil).Redact(text); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// A password is hidden in an error of the driver, unless it is a name as well.
func TestSecret(t *testing.T) {
	noEnvironment(t)
	for text, want := range map[string]string{
		"postgres://user:hunter2@host/db": "user host db xxxxx",
		"postgres://user:user@host/db":    "user host db hunter2",
		"postgres://user:db@host/db":      "user host db hunter2",
		"postgres://user:host@host/db":    "user host db hunter2",
		"postgres://user@host/db":         "user host db hunter2",
	} {
		config, err := dsn.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := config.Redact("user host db hunter2"); got != want {
			t.Errorf("%s: got %q; want %q", text, got, want)
		}
	}
}

// A connection string in the wrong place is quoted by the error about it.
func TestRedactArguments(t *testing.T) {
	for text, want := range map[string]string{
		`unknown command "u:x@SECRET@host" for "bootlock locks"`:                     `unknown command "xxxxx" for "bootlock locks"`,
		`unknown command "u:1/SECRET@host" for "bootlock"`:                           `unknown command "xxxxx" for "bootlock"`,
		`unknown command "host=h;port=1;password=SECRET" for "bootlock"`:             `unknown command "xxxxx" for "bootlock"`,
		`invalid argument "postgres://u:a \"SECRET@h" for "--ttl" flag: invalid "b"`: `invalid argument "xxxxx" for "--ttl" flag: invalid "b"`,
	} {
		if got := dsn.RedactArguments(text); got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	}
}

// Whatever is wrong with a DSN, what is said of it has nothing of the password in it.
// The second line finds the password of every DSN that can be read.
func FuzzPassword(f *testing.F) {
	for _, around := range []string{"", "%zz", "%40", "/", "@", " ", "'", "\\", "\n", "?", "#", ":", "[", "=", "&", "\x7f", "é"} {
		f.Add(around, "")
		f.Add("", around)
		f.Add(around, around)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const marker = "s3cr3t"
		password := before + marker + after
		for _, text := range []string{
			"postgres://user:" + password + "@127.0.0.1:1/db",
			"postgres://127.0.0.1:1/db?user=u&password=" + password,
			"host=127.0.0.1 port=1 password=" + password,
			"host=127.0.0.1 port=1 password='" + password + "'",
			"jdbc:postgresql://127.0.0.1:1/db?password=" + password,
			password,
		} {
			config, err := dsn.Parse(text)
			if err != nil {
				if strings.Contains(err.Error(), marker) {
					t.Errorf("%q: got %v; want nothing of the password", text, err)
				}
				continue
			}
			if strings.Contains(config.Address(), marker) {
				t.Errorf("%q: got %s as the address, which messages show", text, config.Address())
			}
		}
	})
}

func FuzzRedact(f *testing.F) {
	for _, around := range []string{"", "@", ":", "/", "'", "\\", "=", "&", "é"} {
		f.Add(around, around)
	}
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`)
	f.Fuzz(func(t *testing.T, before, after string) {
		const marker = "s3cr3t"
		password := before + marker + after
		texts := []string{
			"dial " + (&url.URL{Scheme: "postgres", User: url.UserPassword("user", password), Host: "h", Path: "/d"}).String() + ": refused",
			"dial postgres://h/d?password=" + url.QueryEscape(password) + "&sslmode=disable: refused",
			"host=h password='" + quote.Replace(password) + "' user=u",
		}
		for _, text := range texts {
			if got := (*dsn.Config)(nil).Redact(text); strings.Contains(got, marker) {
				t.Errorf("got %q of %q; want nothing of the password", got, text)
			}
		}
	})
}
