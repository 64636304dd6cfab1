//go:build go1.25

package schemaguardtest_test

import (
	"context"
	"database/sql"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/schemaguard/schemaguardtest"
)

// ignoreCase is a matcher of a user's own, which takes no regular expression.
var ignoreCase = sqlmock.QueryMatcherFunc(func(expected, actual string) error {
	if !strings.EqualFold(expected, actual) {
		return errors.New("different")
	}
	return nil
})

var matchers = map[string]sqlmock.QueryMatcher{
	"default": nil, "regexp": sqlmock.QueryMatcherRegexp, "equal": sqlmock.QueryMatcherEqual, "own": ignoreCase,
}

// newMock returns a mock that is checked when the test ends.
func newMock(t *testing.T, matcher sqlmock.QueryMatcher) (*sql.DB, sqlmock.Sqlmock) {
	t.Helper()
	db, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(matcher))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, mock
}

const (
	sqlBoot    = "CREATE TABLE IF NOT EXISTS app.migrations (version int)"
	sqlAsk     = "SELECT 1 FROM app.migrations WHERE version = $1"
	sqlMigrate = "ALTER TABLE app.t ADD COLUMN IF NOT EXISTS x int"
)

func bootstrap(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, sqlBoot)
	return err
}

func upToDate(ctx context.Context, db *sql.DB) (done bool, err error) {
	res, err := db.ExecContext(ctx, sqlAsk, 3)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func migrate(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, sqlMigrate)
	return err
}

// scene expects what bootstrap, upToDate and migrate send; answers are those of
// upToDate.
func scene(quote func(string) string, answers ...bool) schemaguardtest.Scene {
	exec := func(mock sqlmock.Sqlmock, query string, rows int64) *sqlmock.ExpectedExec {
		return mock.ExpectExec(quote(query)).WillReturnResult(sqlmock.NewResult(0, rows))
	}
	return schemaguardtest.Scene{
		Bootstrap: func(mock sqlmock.Sqlmock) { exec(mock, sqlBoot, 0) },
		Migrate:   func(mock sqlmock.Sqlmock) { exec(mock, sqlMigrate, 0) },
		UpToDate: func(mock sqlmock.Sqlmock) bool {
			done, rows := answers[0], int64(0)
			if answers = answers[1:]; done {
				rows = 1
			}
			exec(mock, sqlAsk, rows).WithArgs(3)
			return done
		},
	}
}

// What is expected is exactly what Ensure sends, in every mode and for every
// matcher: Ensure is content with the answers, and nothing is left over.
func TestExpectGuard(t *testing.T) {
	t.Parallel()
	const committed = "connect > begin > lock > create schema > commit > release"
	for name, test := range map[string]struct {
		guard   schemaguard.Guard
		schema  string
		exists  bool
		answers []bool // of UpToDate
		order   string
	}{
		"zero":               {schemaguard.Guard{}, "app", false, nil, committed + " > migrate"},
		"zero, there":        {schemaguard.Guard{}, "app", true, nil, committed + " > migrate"},
		"odd name":           {schemaguard.Guard{SkipIfExists: true}, `a.b "(c)" $d+ [e]\f'  *|^`, false, nil, "connect > look > release > " + committed + " > migrate"},
		"owner":              {schemaguard.Guard{Owner: "the (owner)"}, "app", false, nil, committed + " > migrate"},
		"key":                {schemaguard.Guard{Key: -1 << 63}, "app", false, nil, committed + " > migrate"},
		"ttl":                {schemaguard.Guard{TTL: time.Minute}, "app", false, nil, committed + " > migrate"},
		"bootstrap":          {schemaguard.Guard{Bootstrap: bootstrap}, "app", false, nil, "connect > begin > lock > create schema > bootstrap > commit > release > migrate"},
		"skip, there":        {schemaguard.Guard{SkipIfExists: true, Bootstrap: bootstrap}, "app", true, nil, "connect > look > release > migrate"},
		"skip, not there":    {schemaguard.Guard{SkipIfExists: true}, "app", false, nil, "connect > look > release > " + committed + " > migrate"},
		"serialize":          {schemaguard.Guard{Serialize: true}, "app", false, nil, committed + " > connect > begin > lock > migrate > commit > release"},
		"serialize, options": {schemaguard.Guard{Serialize: true, Key: 7, TTL: time.Hour, Owner: "bob"}, "app", false, nil, committed + " > connect > begin > lock > migrate > commit > release"},
		"skip, serialize":    {schemaguard.Guard{SkipIfExists: true, Serialize: true}, "app", true, nil, "connect > look > release > connect > begin > lock > migrate > commit > release"},
		"up to date":         {schemaguard.Guard{UpToDate: upToDate}, "app", false, []bool{true}, "up to date"},
		"once":               {schemaguard.Guard{UpToDate: upToDate, Bootstrap: bootstrap}, "app", false, []bool{false, false}, "up to date > connect > begin > lock > create schema > bootstrap > commit > release > connect > begin > lock > up to date > migrate > commit > release"},
		"once, by another":   {schemaguard.Guard{UpToDate: upToDate}, "app", false, []bool{false, true}, "up to date > " + committed + " > connect > begin > lock > up to date > commit > release"},
	} {
		for kind, matcher := range matchers {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				db, mock := newMock(t, matcher)
				quote := regexp.QuoteMeta
				if kind == "equal" || kind == "own" {
					quote = func(query string) string { return query }
				}
				play := scene(quote, test.answers...)
				play.Exists = test.exists
				if kind == "own" {
					play.Matcher = matcher
				}
				schemaguardtest.ExpectGuard(mock, test.guard, test.schema, play)

				var rec locktrace.Recorder
				guard := test.guard
				guard.Trace = rec.Trace()
				if err := guard.Ensure(t.Context(), db, test.schema, migrate); err != nil {
					t.Error(err)
				}
				if err := mock.ExpectationsWereMet(); err != nil {
					t.Error(err)
				}
				if got := rec.String(); got != test.order {
					t.Errorf("order\ngot  %s\nwant %s", got, test.order)
				}
			})
		}
	}
}

func TestExpectEnsure(t *testing.T) {
	t.Parallel()
	for name, matcher := range matchers {
		if name == "own" {
			continue // which only a Scene can tell of
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, mock := newMock(t, matcher)
			schemaguardtest.ExpectEnsure(mock, "My (app)")
			if err := schemaguard.Ensure(t.Context(), db, "My (app)", nil); err != nil {
				t.Error(err)
			}
			if err := mock.ExpectationsWereMet(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Code that does something else than what is expected must not pass.
func TestExpectationsAreSeenToFail(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(ctx context.Context, db *sql.DB) error{
		"nothing":        func(context.Context, *sql.DB) error { return nil },
		"another schema": func(ctx context.Context, db *sql.DB) error { return schemaguard.Ensure(ctx, db, "other", nil) },
		"a longer name":  func(ctx context.Context, db *sql.DB) error { return schemaguard.Ensure(ctx, db, "app2", nil) },
		"another owner": func(ctx context.Context, db *sql.DB) error {
			return schemaguard.Guard{Owner: "bob"}.Ensure(ctx, db, "app", nil)
		},
		"another key": func(ctx context.Context, db *sql.DB) error {
			return schemaguard.Guard{Key: 1}.Ensure(ctx, db, "app", nil)
		},
		"a look before": func(ctx context.Context, db *sql.DB) error {
			return schemaguard.Guard{SkipIfExists: true}.Ensure(ctx, db, "app", nil)
		},
		"no guard": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS "app"`)
			return err
		},
	} {
		for kind, matcher := range map[string]sqlmock.QueryMatcher{"regexp": nil, "equal": sqlmock.QueryMatcherEqual} {
			db, mock := newMock(t, matcher)
			schemaguardtest.ExpectEnsure(mock, "app")
			if err := start(t.Context(), db); err == nil && mock.ExpectationsWereMet() == nil {
				t.Errorf("%s, %s: neither Ensure nor the mock complains", name, kind)
			}
		}
	}
}

// What Ensure refuses it sends nothing of.
func TestExpectRefusedName(t *testing.T) {
	t.Parallel()
	db, mock := newMock(t, nil)
	schemaguardtest.ExpectEnsure(mock, "pg_app")
	if err := schemaguard.Ensure(t.Context(), db, "pg_app", nil); err == nil {
		t.Error("got no error")
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}

// The guard's own functions and its trace are for the code under test.
func TestExpectGuardCallsNothingOfTheGuards(t *testing.T) {
	t.Parallel()
	_, mock := newMock(t, nil)
	var rec locktrace.Recorder
	schemaguardtest.ExpectGuard(mock, schemaguard.Guard{
		Trace:     rec.Trace(),
		Bootstrap: func(context.Context, *sql.Tx) error { t.Error("Bootstrap was called"); return nil },
		UpToDate:  func(context.Context, *sql.DB) (bool, error) { t.Error("UpToDate was called"); return false, nil },
	}, "app", schemaguardtest.Scene{})
	if got := rec.String(); got != "" {
		t.Errorf("traced %s", got)
	}
}

// Expectations that come before and after stay where they are.
func TestExpectEnsureAmongOthers(t *testing.T) {
	t.Parallel()
	db, mock := newMock(t, sqlmock.QueryMatcherEqual)
	mock.ExpectExec("before").WillReturnResult(sqlmock.NewResult(0, 0))
	schemaguardtest.ExpectEnsure(mock, "app")
	mock.ExpectExec(sqlMigrate).WillReturnResult(sqlmock.NewResult(0, 0))
	if _, err := db.ExecContext(t.Context(), "before"); err != nil {
		t.Fatal(err)
	}
	if err := schemaguard.Ensure(t.Context(), db, "app", migrate); err != nil {
		t.Error(err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}
