//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

func bootstrapGrant(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, "GRANT USAGE ON SCHEMA app TO bob")
	return err
}

// In a rolling deploy half of the processes are of the release before, and take
// no lock: of eight guarded ones beside eight unguarded about 1 % still failed,
// until they rolled back and tried again. It must be a new transaction: after
// an error the server commits nothing, and each driver words that differently.
func TestClash(t *testing.T) {
	t.Parallel()
	const creating = "connect > begin > lock > create schema"
	ends := map[string]string{
		"advisory": "connect > begin > lock! > rollback > release",
		"CREATE":   creating + "! > rollback > release",
		"GRANT":    creating + " > bootstrap! > rollback > release",
	}
	steps := map[string]locktrace.Step{
		"advisory": locktrace.Lock, "CREATE": locktrace.CreateSchema, "GRANT": locktrace.Bootstrap,
	}
	for name, test := range map[string]struct {
		err   recdriver.SQLError
		clash bool
	}{
		"23505 pg_namespace":  {recdriver.SQLError{Code: "23505", Constraint: "pg_namespace_nspname_index"}, true},
		"23505 pg_type":       {recdriver.SQLError{Code: "23505", Constraint: "pg_type_typname_nsp_index"}, true},
		"23505 pg_class":      {recdriver.SQLError{Code: "23505", Constraint: "pg_class_relname_nsp_index"}, true},
		"23505 pg_extension":  {recdriver.SQLError{Code: "23505", Constraint: "pg_extension_name_index"}, true},
		"23505 translated":    {recdriver.SQLError{Code: "23505", Message: "doppelter Schlüsselwert verletzt Unique-Constraint »pg_namespace_nspname_index«"}, true},
		"42P06":               {recdriver.SQLError{Code: "42P06", Message: `schema "app" already exists`}, true},
		"42P07":               {recdriver.SQLError{Code: "42P07", Message: `relation "t" already exists`}, true},
		"42710":               {recdriver.SQLError{Code: "42710", Message: `extension "x" already exists`}, true},
		"40001":               {recdriver.SQLError{Code: "40001", Message: "could not serialize access"}, true},
		"40P01":               {recdriver.SQLError{Code: "40P01", Message: "deadlock detected"}, true},
		"XX000 updated":       {recdriver.SQLError{Code: "XX000", Message: "tuple concurrently updated"}, true},
		"XX000 deleted":       {recdriver.SQLError{Code: "XX000", Message: "tuple concurrently deleted"}, true},
		"XX000 anything else": {recdriver.SQLError{Code: "XX000", Message: "cache lookup failed for type 1"}, false},
		"23505 of a user":     {recdriver.SQLError{Code: "23505", Constraint: "accounts_email_key"}, false},
		"23505 of a user's index": {
			recdriver.SQLError{Code: "23505", Constraint: "my_pg_accounts_index"}, false,
		},
		"23503":       {recdriver.SQLError{Code: "23503", Constraint: "pg_namespace_nspname_index"}, false},
		"42601":       {recdriver.SQLError{Code: "42601", Message: "syntax error"}, false},
		"no SQLSTATE": {recdriver.SQLError{Message: `duplicate key value violates unique constraint "pg_namespace_nspname_index"`}, false},
	} {
		for style, as := range styles {
			for at, first := range ends {
				t.Run(name+"/"+style+"/"+at, func(t *testing.T) {
					t.Parallel()
					bubble(t, func(t *testing.T) {
						f := newFixture(t, 1)
						f.OnCall(recdriver.FailOn(recdriver.Exec, at, 1, as(test.err)))
						err := f.ensure(t, schemaguard.Guard{Bootstrap: bootstrapGrant})
						if test.clash && at != "advisory" {
							if err != nil {
								t.Errorf("got error %v; want another try", err)
							}
							f.wantOrder(t, first+" > "+creating+" > bootstrap > commit > release > migrate")
							return
						}
						f.wantOrder(t, first)
						wantStep(t, err, steps[at], as(test.err))
					})
				})
			}
		}
	}
}

// A clash seen at COMMIT is not tried again, since its outcome is unknown; and an error
// of migrate is migrate's own, whatever its code.
func TestClashElsewhere(t *testing.T) {
	clash := recdriver.SQLError{Code: "42P07"}
	each(t, map[string]string{
		"commit":  "connect > begin > lock > create schema > commit! > release",
		"migrate": created + " > migrate!",
	}, func(t *testing.T, order string) {
		f := newFixture(t, 1)
		step, calls := locktrace.Migrate, 0
		if strings.Contains(order, "commit!") {
			step = locktrace.Commit
			f.OnCall(recdriver.FailOn(recdriver.Commit, "", 1, clash))
		}
		err := f.ensureWith(t.Context(), schemaguard.Guard{}, func(context.Context, *sql.DB) error {
			calls++
			return clash
		})
		wantStep(t, err, step, clash)
		f.wantOrder(t, order)
		if calls > 1 {
			t.Errorf("migrate was called %d times", calls)
		}
	})
}

// The unguarded process needs a moment to commit; without a pause all attempts are over
// before that. A clash every time is none: something else is wrong, and is reported.
func TestClashGivesUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		f := newFixture(t, 1)
		clash := recdriver.SQLError{Code: "42P06", Message: `schema "app" already exists`}
		f.OnCall(recdriver.FailOn(recdriver.Exec, "CREATE", 0, clash))
		began := time.Now()
		wantStep(t, f.ensure(t, schemaguard.Guard{}), locktrace.CreateSchema, clash)
		const try = "connect > begin > lock > create schema! > rollback > release"
		f.wantOrder(t, strings.Repeat(try+" > ", 4)+try)
		if took := time.Since(began); took < 200*time.Millisecond || took > time.Second {
			t.Errorf("gave up after %v; want four short pauses", took)
		}
	})
}

type catalogClash struct {
	index  string
	shared bool
}

// Extensions, roles, databases and publications are wider than a schema: programs with
// different schemas clash on them under locks that differ. The error says what helps.
func TestClashOnWhatIsShared(t *testing.T) {
	for _, step := range []locktrace.Step{locktrace.Bootstrap, locktrace.Migrate} {
		t.Run(string(step), func(t *testing.T) {
			each(t, map[string]catalogClash{
				"extension":   {"pg_extension_name_index", true},
				"role":        {"pg_authid_rolname_index", true},
				"database":    {"pg_database_datname_index", true},
				"publication": {"pg_publication_pubname_index", true},
				"table":       {"pg_class_relname_nsp_index", false},
				"a user's":    {"pg_extension_name_key", false},
			}, func(t *testing.T, test catalogClash) {
				clash := recdriver.SQLError{Code: "23505", Message: `duplicate key value violates unique constraint "` + test.index + `"`}
				guard, migrate := schemaguard.Guard{}, nothing
				if step == locktrace.Bootstrap {
					guard.Bootstrap = func(context.Context, *sql.Tx) error { return clash }
				} else {
					migrate = func(context.Context, *sql.DB) error { return clash }
				}
				err := newFixture(t, 1).ensureWith(t.Context(), guard, migrate)
				wantStep(t, err, step, clash)
				if got := strings.HasSuffix(err.Error(), "create them under one key in all programs"); got != test.shared {
					t.Errorf("got %v; want the advice: %t", err, test.shared)
				}
			})
		})
	}
}

// The end of ctx ends the pause between two tries, and shows in the error
// beside the clash.
func TestClashPauseObeysContext(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		clash := recdriver.SQLError{Code: "42P06", Message: `schema "app" already exists`}
		ctx, cancel := context.WithCancel(t.Context())
		f := newFixture(t, 1)
		f.OnCall(recdriver.FailOn(recdriver.Exec, "CREATE", 0, clash))
		f.OnCall(func(_ context.Context, c *recdriver.Call) error {
			if c.Kind == recdriver.Release { // what comes next is the pause
				cancel()
			}
			return nil
		})
		err := f.ensureWith(ctx, schemaguard.Guard{}, nothing)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, clash) {
			t.Errorf("got error %v; want both the context's and the server's", err)
		}
		f.wantSent(t, "BEGIN", "lock", createApp, "ROLLBACK")
	})
}

// Bootstrap runs again as a whole: the first try was rolled back.
func TestClashRunsBootstrapAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		f, calls := newFixture(t, 1), 0
		err := f.ensure(t, schemaguard.Guard{Bootstrap: func(ctx context.Context, tx *sql.Tx) error {
			if calls++; calls == 1 {
				return recdriver.SQLError{Code: "XX000", Message: "tuple concurrently updated"}
			}
			return bootstrapGrant(ctx, tx)
		}})
		if err != nil {
			t.Fatal(err)
		}
		f.wantSent(t, "BEGIN", "lock", createApp, "ROLLBACK",
			"BEGIN", "lock", createApp, "GRANT USAGE ON SCHEMA app TO bob", "COMMIT")
	})
}
