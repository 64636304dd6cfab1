package test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

// A connection string with a mistake in it is what a new user has, and lib/pq
// repeats it, password and all. No error of ours may.
func TestNoPasswordInErrors(t *testing.T) {
	t.Parallel()
	for _, driver := range drivers {
		for _, dsn := range []string{
			"postgres//user:s3cret@host/db",
			"postgres://user:s3%zzcret@host/db",
			"postgres://user:s3cret/x@host:1/db",
			"postgres://user:s3 cret@host/db",
			"host=h password='s3cret user=x",
			"host=h password s3cret",
			"postgres://user:s3cret@[::1/db",
		} {
			db, err := sql.Open(driver, dsn)
			if err != nil {
				continue // the user's own call
			}
			defer db.Close()
			_, sessionsErr := advisorylock.Sessions(t.Context(), db, 1)
			for call, err := range map[string]error{
				"Migrate":      schemaguard.Migrate(t.Context(), db, "app", nil),
				"SkipIfExists": schemaguard.Guard{SkipIfExists: true}.Ensure(t.Context(), db, "app", nil),
				"WithXactLock": advisorylock.WithXactLock(t.Context(), db, 1, noTx),
				"Hold":         advisorylock.Hold(t.Context(), db, 1, func(context.Context) error { return nil }),
				"Sessions":     sessionsErr,
			} {
				if err == nil || strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), "cret") {
					t.Errorf("%s, %s with %s: got %v; want an error without the password", driver, call, dsn, err)
				}
				if own := new(url.Error); driver == "postgres" && strings.HasPrefix(dsn, "postgres://") && !errors.As(err, &own) {
					t.Errorf("%s, %s with %s: got %v; want the driver's own error reachable", driver, call, dsn, err)
				}
			}
		}
	}
}
