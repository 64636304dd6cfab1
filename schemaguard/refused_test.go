//go:build go1.25

package schemaguard_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// Before it looks at IF NOT EXISTS, the server checks that the role may create
// schemas (42501) and that the transaction may write (25006); and on a standby
// lib/pq cannot even begin (0A000), since it always asks for READ WRITE, and other
// drivers find no lock. None of them matters to a process whose schema is there already.
func TestRefused(t *testing.T) {
	const (
		atCreate = "connect > begin > lock > create schema! > rollback > release"
		atBegin  = "connect > begin! > release"
		atLock   = "connect > begin > lock! > rollback > release"
		look     = " > connect > look > release"
		again    = " > connect > begin > lock > bootstrap > commit > release"
	)
	denied := recdriver.SQLError{Code: "42501", Message: "no"}
	readOnly := recdriver.SQLError{Code: "25006", Message: "no"}
	noWrite := recdriver.SQLError{Code: "0A000", Message: "no"}
	type test struct {
		order  string
		step   locktrace.Step
		hook   func(context.Context, *recdriver.Call) error // nil: the server is a standby
		err    error
		again  string // what comes before migrate if there is a Bootstrap
		advice string
	}
	tests := map[string]test{
		"no right":                   {atCreate, locktrace.CreateSchema, recdriver.FailOn(recdriver.Exec, "CREATE SCHEMA", 0, denied), denied, again, "GRANT CREATE ON DATABASE"},
		"read-only at create schema": {atCreate, locktrace.CreateSchema, recdriver.FailOn(recdriver.Exec, "CREATE SCHEMA", 0, readOnly), readOnly, "", "read-only"},
		"read-only at begin":         {atBegin, locktrace.Begin, recdriver.FailOn(recdriver.Begin, "", 0, readOnly), readOnly, "", "read-only"},
		"standby at begin":           {atBegin, locktrace.Begin, recdriver.FailOn(recdriver.Begin, "", 0, noWrite), noWrite, "", "read-only"},
		"standby at lock":            {atLock, locktrace.Lock, nil, advisorylock.ErrUnsupported, "", "read-only"},
	}
	t.Parallel()
	for _, bootstrap := range []bool{true, false} {
		t.Run(fmt.Sprintf("bootstrap %t", bootstrap), func(t *testing.T) {
			each(t, tests, func(t *testing.T, test test) {
				g := schemaguard.Guard{}
				if bootstrap {
					g.Bootstrap = bootstrapGrant
				} else {
					test.again = ""
				}
				for _, there := range []bool{false, true} {
					f := newFixture(t, 1)
					f.world.there = there
					f.world.SetStandby(test.hook == nil)
					f.OnCall(test.hook)
					err := f.ensure(t, g)
					if there && err == nil {
						f.wantOrder(t, test.order+look+test.again+" > migrate")
						continue
					}
					f.wantOrder(t, test.order+look)
					wantStep(t, err, test.step, test.err)
					wantText(t, err, "does not exist", test.advice)
				}
			})
		})
	}
}

// When the look fails too, neither error hides the other.
func TestRefusedAndLookFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		refusal := recdriver.SQLError{Code: "42501", Message: "permission denied"}
		f := newFixture(t, 1)
		f.OnCall(recdriver.FailOn(recdriver.Exec, "CREATE SCHEMA", 0, refusal))
		f.OnCall(recdriver.FailOn(recdriver.Exec, "pg_namespace", 0, errBoom))
		err := f.ensure(t, schemaguard.Guard{})
		wantStep(t, err, locktrace.CreateSchema, refusal)
		if !errors.Is(err, errBoom) {
			t.Errorf("got error %v; want also why the look failed", err)
		}
	})
}

// A refusal of anything but CREATE SCHEMA is not cured by the schema's presence.
func TestRefusedElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for on, step := range map[string]locktrace.Step{"advisory": locktrace.Lock, "GRANT": locktrace.Bootstrap} {
			for _, code := range []string{"42501", "25006"} {
				f := newFixture(t, 1)
				f.world.there = true
				refusal := recdriver.SQLError{Code: code, Message: "no"}
				f.OnCall(recdriver.FailOn(recdriver.Exec, on, 0, refusal))
				wantStep(t, f.ensure(t, schemaguard.Guard{Bootstrap: bootstrapGrant}), step, refusal)
				if strings.Contains(f.rec.String(), "look") {
					t.Errorf("got %s; want no look", &f.rec)
				}
			}
		}
	})
}
