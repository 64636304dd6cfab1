//go:build go1.25

package schemaguard_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// Before it looks at IF NOT EXISTS, the server checks that the role may create
// schemas (42501) and that the transaction may write (25006); and on a standby
// lib/pq cannot even begin (0A000), since it always asks for READ WRITE. None of
// them matters to a process whose schema is there already.
func TestRefused(t *testing.T) {
	t.Parallel()
	const (
		atCreate = "connect > begin > lock > create schema! > rollback > release"
		atBegin  = "connect > begin! > release"
		look     = " > connect > look > release"
		again    = " > connect > begin > lock > bootstrap > commit > release"
	)
	for _, test := range []struct {
		code, order string
		step        locktrace.Step
		hook        recdriver.Kind
		readOnly    bool // Bootstrap could not do anything either
		advice      string
	}{
		{"42501", atCreate, locktrace.CreateSchema, recdriver.Exec, false, "GRANT CREATE ON DATABASE"},
		{"25006", atCreate, locktrace.CreateSchema, recdriver.Exec, true, "read-only"},
		{"0A000", atBegin, locktrace.Begin, recdriver.Begin, true, "read-only"},
		{"25006", atBegin, locktrace.Begin, recdriver.Begin, true, "read-only"},
	} {
		for style, as := range styles {
			for _, there := range []bool{true, false} {
				for _, bootstrap := range []bool{true, false} {
					name := fmt.Sprintf("%s at %s/%s/there %t/bootstrap %t", test.code, test.step, style, there, bootstrap)
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						bubble(t, func(t *testing.T) {
							f := newFixture(t, 1)
							f.world.there = there
							refusal := as(recdriver.SQLError{Code: test.code, Message: "no"})
							on := ""
							if test.hook == recdriver.Exec {
								on = "CREATE SCHEMA"
							}
							f.OnCall(recdriver.FailOn(test.hook, on, 0, refusal))
							g := schemaguard.Guard{}
							if bootstrap {
								g.Bootstrap = bootstrapGrant
							}
							err := f.ensure(t, g)
							if there {
								if err != nil {
									t.Errorf("got error %v; want none, since the schema is there", err)
								}
								want := test.order + look
								if bootstrap && !test.readOnly {
									want += again
								}
								f.wantOrder(t, want+" > migrate")
								return
							}
							f.wantOrder(t, test.order+look)
							wantStep(t, err, test.step, refusal)
							wantText(t, err, "does not exist", test.advice)
						})
					})
				}
			}
		}
	}
}

// A standby has no lock to give: the schema is looked for, and Bootstrap left out.
func TestStandby(t *testing.T) {
	each(t, map[string]bool{"there": true, "not there": false}, func(t *testing.T, there bool) {
		f := newFixture(t, 1)
		f.world.SetStandby(true)
		f.world.there = there
		err := f.ensure(t, schemaguard.Guard{Bootstrap: bootstrapGrant})
		order := "connect > begin > lock! > rollback > release > connect > look > release"
		if there {
			f.wantOrder(t, order+" > migrate")
			return
		}
		f.wantOrder(t, order)
		wantStep(t, err, locktrace.Lock, advisorylock.ErrUnsupported)
		wantText(t, err, "read-only")
	})
}

// When the look fails too, neither error hides the other.
func TestRefusedAndLookFails(t *testing.T) {
	refusal := recdriver.SQLError{Code: "42501", Message: "permission denied"}
	each(t, map[string][]func(context.Context, *recdriver.Call) error{
		"connect > look! > release": {recdriver.FailOn(recdriver.Exec, "pg_namespace", 0, errBoom)},
		"connect!": { // the first connection is not fit to be used again, and there is no other
			recdriver.FailOn(recdriver.Release, "", 0, errors.New("broken")),
			recdriver.FailOn(recdriver.Connect, "", 2, errBoom),
		},
	}, func(t *testing.T, hooks []func(context.Context, *recdriver.Call) error) {
		f := newFixture(t, 1)
		f.OnCall(recdriver.FailOn(recdriver.Exec, "CREATE SCHEMA", 0, refusal))
		for _, hook := range hooks {
			f.OnCall(hook)
		}
		err := f.ensure(t, schemaguard.Guard{})
		wantStep(t, err, locktrace.CreateSchema, refusal)
		look := map[int]string{1: "connect > look! > release", 2: "connect!"}[len(hooks)]
		f.wantOrder(t, "connect > begin > lock > create schema! > rollback > release > "+look)
		if !errors.Is(err, errBoom) {
			t.Errorf("got error %v; want also why the look failed", err)
		}
	})
}

// A refusal of anything but CREATE SCHEMA is not cured by the schema's presence.
func TestRefusedElsewhere(t *testing.T) {
	each(t, map[string]locktrace.Step{"advisory": locktrace.Lock, "GRANT": locktrace.Bootstrap}, func(t *testing.T, step locktrace.Step) {
		for _, code := range []string{"42501", "25006"} {
			f := newFixture(t, 1)
			f.world.there = true
			refusal := recdriver.SQLError{Code: code, Message: "no"}
			at := map[locktrace.Step]string{locktrace.Lock: "advisory", locktrace.Bootstrap: "GRANT"}[step]
			f.OnCall(recdriver.FailOn(recdriver.Exec, at, 0, refusal))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := f.ensureWith(ctx, schemaguard.Guard{Bootstrap: bootstrapGrant}, nothing)
			wantStep(t, err, step, refusal)
			if strings.Contains(f.rec.String(), "look") {
				t.Errorf("got %s; want no look", &f.rec)
			}
		}
	})
}

// The Bootstrap of a role that may not create the schema can still clash, and
// fail for good.
func TestRefusedThenBootstrapFails(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		f := newFixture(t, 1)
		f.world.there = true
		owner := recdriver.SQLError{Code: "42501", Message: "must be owner"}
		f.OnCall(recdriver.FailOn(recdriver.Exec, "CREATE SCHEMA", 0, recdriver.SQLError{Code: "42501", Message: "no"}))
		f.OnCall(recdriver.FailOn(recdriver.Exec, "GRANT", 1, recdriver.SQLError{Code: "XX000", Message: "tuple concurrently updated"}))
		f.OnCall(recdriver.FailOn(recdriver.Exec, "GRANT", 1, owner)) // which sees the second
		wantStep(t, f.ensure(t, schemaguard.Guard{Bootstrap: bootstrapGrant}), locktrace.Bootstrap, owner)
		const bootstrap = " > connect > begin > lock > bootstrap! > rollback > release"
		f.wantOrder(t, "connect > begin > lock > create schema! > rollback > release > connect > look > release"+bootstrap+bootstrap)
	})
}
