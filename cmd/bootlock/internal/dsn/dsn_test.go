package dsn_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
)

// noEnvironment keeps what the machine has set out of a test.
func noEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE"} {
		t.Setenv(name, "")
	}
}

// The server would refuse each of these as a setting that it does not know:
// "unrecognized configuration parameter".
func TestKeywordsOfOthers(t *testing.T) {
	noEnvironment(t)
	for _, test := range []struct {
		text    string
		dropped []string
	}{
		{"postgres://u@h/d?keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3", []string{"keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"}},
		{"postgres://u@h/d?tcp_user_timeout=1000", []string{"tcp_user_timeout"}},
		{"postgres://u@h/d?gssencmode=disable", []string{"gssencmode"}},
		{"postgres://u@h/d?gssencmode=prefer", []string{"gssencmode"}},
		{"postgres://u@h/d?client_encoding=auto", []string{"client_encoding"}},
		{"postgres://u@h/d?client_encoding=utf-8", nil},
		{"host=h user=u fallback_application_name=psql load_balance_hosts=disable", []string{"fallback_application_name", "load_balance_hosts"}},
		// Prisma, SQLAlchemy, Rails: without a word, since they are for others.
		{"postgres://u@h/d?schema=public&connection_limit=1&pgbouncer=true", nil},
		{"postgres://u@h/d?pool=5&prepared_statements=false&encoding=unicode", nil},
		{"postgresql+psycopg://u@h/d", nil},
	} {
		config, err := dsn.Parse(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if !slices.Equal(config.Dropped, test.dropped) {
			t.Errorf("%s: got %q dropped; want %q", test.text, config.Dropped, test.dropped)
		}
		for name := range config.RuntimeParams {
			if name != "client_encoding" {
				t.Errorf("%s: got %s for a setting of the server", test.text, name)
			}
		}
		if config.User != "u" || config.Host != "h" {
			t.Errorf("%s: got user %q, host %q; want u, h", test.text, config.User, config.Host)
		}
	}
}

// Settings of the server stay.
func TestSettingsStay(t *testing.T) {
	noEnvironment(t)
	config, err := dsn.Parse("postgres://u@h/d?application_name=mine&search_path=app&options=-c%20geqo%3Doff")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"application_name": "mine", "search_path": "app", "options": "-c geqo=off"} {
		if got := config.RuntimeParams[name]; got != want {
			t.Errorf("got %s %q; want %q", name, got, want)
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
		"host=h hostaddr=example.org":           "hostaddr is not an IP address",
		"host=a,b hostaddr=127.0.0.1":           "one address for each host",
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

func TestSeveralHostaddr(t *testing.T) {
	noEnvironment(t)
	config, err := dsn.Parse("host=a,b hostaddr=192.0.2.1,192.0.2.2 sslmode=prefer")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"a": "192.0.2.1", "b": "192.0.2.2"} {
		got, _ := config.LookupFunc(context.Background(), host)
		if !slices.Equal(got, []string{want}) {
			t.Errorf("got %v for %s; want %s", got, host, want)
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
		if got := dsn.Redact(text); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// A password that is a name as well would be taken out of every message.
func TestSecret(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://user:hunter2@host/db": "hunter2",
		"postgres://user:user@host/db":    "",
		"postgres://user:db@host/db":      "",
		"postgres://user:host@host/db":    "",
		"postgres://user@host/db":         "",
	} {
		noEnvironment(t)
		config, err := dsn.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := config.Secret(); got != want {
			t.Errorf("%s: got %q; want %q", text, got, want)
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
			if got := dsn.Redact(text); strings.Contains(got, marker) {
				t.Errorf("got %q of %q; want nothing of the password", got, text)
			}
		}
	})
}
