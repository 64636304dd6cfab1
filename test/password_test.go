package test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
)

// A connection string with a mistake in it is what a new user has, and lib/pq
// repeats it, password and all. No error of ours may, nor what traces and logs are
// told.
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
			"postgres://user:s3cret@127.0.0.1:1/db?sslmode=disable",
			"postgres://user:s3cret@127.0.0.1:1/db?sslmode=odd",
			"postgres://user:s3cret@127.0.0.1:port/db",
			"host=127.0.0.1 port=1 user=u password=s3cret sslmode=disable",
			pgtest.WithUser(pgtest.Shared(t).DSN, "postgres", "s3cret"),
			pgtest.WithUser(pgtest.Shared(t).DSN, "nobody", "s3cret"),
		} {
			db, err := sql.Open(driver, dsn)
			if err != nil {
				continue // the user's own call
			}
			defer db.Close()
			_, bad := url.Parse(dsn)
			for call, err := range callsThatFail(t, db) {
				if err == nil || strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), "cret") {
					t.Errorf("%s, %s with %s: got %v; want an error without the password", driver, call, dsn, err)
				}
				if own := new(url.Error); driver == "postgres" && strings.HasPrefix(dsn, "postgres://") && bad != nil && call != told && !errors.As(err, &own) {
					t.Errorf("%s, %s with %s: got %v; want the driver's own error reachable", driver, call, dsn, err)
				}
			}
		}
	}
}

const told = "what hooks are told"

// callsThatFail are the errors of all functions that connect. What they tell hooks
// and the log meanwhile is one more.
func callsThatFail(t *testing.T, db *sql.DB) map[string]error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var heard bytes.Buffer
	log := locktrace.Log(slog.New(slog.NewTextHandler(&heard, nil)))
	trace := &locktrace.Trace{Start: log.Start, Waiting: log.Waiting, Done: func(ctx context.Context, e locktrace.Event) {
		log.Done(ctx, e)
		if e.Err != nil {
			heard.WriteString(e.Err.Error() + "\n")
		}
	}}
	locker := advisorylock.Locker{Trace: trace}
	hold := locktest.None
	no := func(context.Context, *sql.DB) (bool, error) { return false, nil }
	_, sessionsErr := advisorylock.Sessions(ctx, db, 1)
	errs := map[string]error{
		"Ensure":          schemaguard.Guard{Trace: trace}.Ensure(ctx, db, "app", nil),
		"Migrate":         schemaguard.Migrate(ctx, db, "app", nil),
		"SkipIfExists":    schemaguard.Guard{SkipIfExists: true, Trace: trace}.Ensure(ctx, db, "app", nil),
		"UpToDate":        schemaguard.Guard{UpToDate: no, Trace: trace}.Ensure(ctx, db, "app", nil),
		"WithXactLock":    locker.WithXactLock(ctx, db, 1, locktest.Nothing),
		"TryWithXactLock": locker.TryWithXactLock(ctx, db, 1, locktest.Nothing),
		"Hold":            locker.Hold(ctx, db, 1, hold),
		"TryHold":         locker.TryHold(ctx, db, 1, hold),
		"Sessions":        sessionsErr,
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond) // a server that is not there is waited for
	defer cancel()
	errs["Await"] = schemaguard.Guard{Once: "build 1", Trace: trace}.Await(short, db, "app")
	errs[told] = errors.New(heard.String())
	if heard.Len() == 0 {
		errs[told] = nil
	}
	return errs
}
