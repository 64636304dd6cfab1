//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// In a rolling deploy half of the processes are of the release before, and take
// no lock: of eight guarded ones beside eight unguarded about 1 % still failed,
// until they rolled back and tried again. It must be a new transaction: after
// an error the server commits nothing. A clash seen at COMMIT is not tried again, since
// its outcome is unknown; and an error of migrate is migrate's own, whatever its code.
func TestClash(t *testing.T) {
	t.Parallel()
	const (
		creating = "connect > begin > lock > create schema"
		booted   = creating + " > bootstrap > commit > release"
	)
	type place struct {
		kind  recdriver.Kind
		on    string
		order string
	}
	places := map[locktrace.Step]place{
		locktrace.Lock:         {recdriver.Exec, "advisory", "connect > begin > lock! > rollback > release"},
		locktrace.CreateSchema: {recdriver.Exec, "CREATE", creating + "! > rollback > release"},
		locktrace.Bootstrap:    {recdriver.Exec, "GRANT", creating + " > bootstrap! > rollback > release"},
		locktrace.Commit:       {recdriver.Commit, "", creating + " > bootstrap > commit! > release"},
		locktrace.Migrate:      {recdriver.Exec, "app.t", booted + " > migrate!"},
	}
	for name, test := range map[string]struct {
		err   recdriver.SQLError
		clash bool
	}{
		"23505":               {recdriver.SQLError{Code: "23505", Constraint: "pg_namespace_nspname_index"}, true},
		"42P06":               {recdriver.SQLError{Code: "42P06", Message: `schema "app" already exists`}, true},
		"42P07":               {recdriver.SQLError{Code: "42P07", Message: `relation "t" already exists`}, true},
		"42710":               {recdriver.SQLError{Code: "42710", Message: `extension "x" already exists`}, true},
		"40001":               {recdriver.SQLError{Code: "40001", Message: "could not serialize access"}, true},
		"40P01":               {recdriver.SQLError{Code: "40P01", Message: "deadlock detected"}, true},
		"XX000":               {recdriver.SQLError{Code: "XX000", Message: "tuple concurrently updated"}, true},
		"XX000 anything else": {recdriver.SQLError{Code: "XX000", Message: "cache lookup failed for type 1"}, false},
		"23505 of a user":     {recdriver.SQLError{Code: "23505", Constraint: "accounts_email_key"}, false},
		"42601":               {recdriver.SQLError{Code: "42601", Message: "syntax error"}, false},
	} {
		for step, at := range places {
			t.Run(name+"/"+string(step), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					f := newFixture(t, 1)
					f.OnCall(recdriver.FailOn(at.kind, at.on, 1, test.err))
					err := f.ensureWith(t.Context(), schemaguard.Guard{Bootstrap: bootstrapGrant}, migrateAll)
					if !test.clash || step != locktrace.CreateSchema && step != locktrace.Bootstrap {
						f.wantOrder(t, at.order)
						wantStep(t, err, step, test.err)
						return
					}
					if err != nil {
						t.Errorf("got error %v; want another try", err)
					}
					f.wantOrder(t, at.order+" > "+booted+" > migrate")
				})
			})
		}
	}
}

// The unguarded process needs a moment to commit; without a pause all attempts are over
// before that. A clash every time is none: something else is wrong, and is reported.
func TestClashGivesUp(t *testing.T) {
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

// Extensions, roles, databases and publications are wider than a schema: programs with
// different schemas clash on them under locks that differ. The error says what helps.
func TestClashOnWhatIsShared(t *testing.T) {
	t.Parallel()
	for index, shared := range map[string]bool{
		"pg_extension_name_index":      true,
		"pg_authid_rolname_index":      true,
		"pg_database_datname_index":    true,
		"pg_publication_pubname_index": true,
		"pg_class_relname_nsp_index":   false,
		"pg_extension_name_key":        false, // a user's
	} {
		err := newFixture(t, 1).ensureWith(t.Context(), schemaguard.Guard{}, func(context.Context, *sql.DB) error {
			return recdriver.SQLError{Code: "23505", Message: `duplicate key value violates unique constraint "` + index + `"`}
		})
		if got := strings.HasSuffix(fmt.Sprint(err), "create them under one key in all programs"); got != shared {
			t.Errorf("got %v; want the advice: %t", err, shared)
		}
	}
}

// The end of ctx ends the pause between two tries, and shows in the error
// beside the clash.
func TestClashPauseObeysContext(t *testing.T) {
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
