package secret_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/internal/secret"
)

func TestHide(t *testing.T) {
	t.Parallel()
	bad := func(dsn string) error {
		_, err := url.Parse(dsn)
		return err
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{bad("postgres://user:s3%zzcret@host/db"), "the connection string is no valid URL"},
		{bad("postgres://user:s3cret/x@host:1/db"), "the connection string is no valid URL"},
		{bad("postgres://user:s3 cret@host/db"), "the connection string is no valid URL"},
		{
			errors.New(`missing "=" after "postgres//user:s3cret@host/db" in connection info string`),
			"the connection string is neither a URL nor a list of key=value",
		},
		{
			errors.New("cannot parse `host=h password s3`cret`: failed to parse as keyword/value (invalid keyword/value)"),
			"cannot parse the connection string: failed to parse as keyword/value (invalid keyword/value)",
		},
		{errors.New("dial tcp 127.0.0.1:1: connect: connection refused"), "dial tcp 127.0.0.1:1: connect: connection refused"},
		{errors.New(`pq: password authentication failed for user "app"`), `pq: password authentication failed for user "app"`},
	} {
		got := secret.Hide(test.err)
		if got.Error() != test.want || strings.Contains(got.Error(), "cret") || !errors.Is(got, test.err) {
			t.Errorf("got %v; want %s, around the driver's error", got, test.want)
		}
	}
	if err := secret.Hide(nil); err != nil {
		t.Errorf("got %v; want nil", err)
	}
}

// However a connection string is broken, what its error shows has nothing of the
// password in it: neither as net/url tells it, nor as lib/pq and pgx repeat it.
func FuzzHide(f *testing.F) {
	for _, around := range []string{"", "%zz", "/", "@", " ", "'", "`", "\\", "`: ", "\n", "?", "#", ":", "[", "=", "\x7f"} {
		f.Add(around, "")
		f.Add("", around)
		f.Add(around, around)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		password := before + "s3cr3t" + after
		for _, dsn := range []string{"postgres://user:" + password + "@host/db", "host=h password=" + password, "postgres//user:" + password + "@host"} {
			errs := []error{
				fmt.Errorf("cannot parse `%s`: failed to parse as keyword/value (invalid keyword/value)", dsn),
				fmt.Errorf("missing %q after %q in connection info string", "=", dsn),
			}
			if _, err := url.Parse(dsn); err != nil {
				errs = append(errs, err, fmt.Errorf("open: %w", err))
			}
			for _, err := range errs {
				if got := secret.Hide(err); strings.Contains(got.Error(), "s3cr3t") || !errors.Is(got, err) {
					t.Errorf("got %q of %q; want nothing of the password", got, err)
				}
			}
		}
	})
}
