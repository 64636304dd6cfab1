package fence

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

func counter() func() uint32 {
	var n uint32
	return func() uint32 { n++; return n }
}

// Processes of any release have to meet at the same gates: the keys never change.
// "printf bootlock/fence:42 | sha256sum" begins with the first of them.
func TestKeysAreForEver(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		key, gate int64
		family    uint32
	}{
		{42, -8192425933083984938, 1965421848},
		{-1, 6761523543685462992, 2521631492},
	} {
		l := New(tc.key, time.Second, counter())
		if l.Key() != tc.key || l.Gate() != tc.gate || l.Family() != tc.family {
			t.Errorf("key %d: got key %d, gate %d, family %d; want gate %d, family %d", tc.key, l.Key(), l.Gate(), l.Family(), tc.gate, tc.family)
		}
		if want := int64(uint64(tc.family)<<32 | 1); l.number != want { //nolint:gosec // the bits
			t.Errorf("key %d: got the number %d; want %d", tc.key, l.number, want)
		}
	}
}

func TestNumberIsNewForEachGrant(t *testing.T) {
	t.Parallel()
	first := New(42, time.Second, Draw(nil))
	second := first.Redraw()
	if first.number == second.number {
		t.Errorf("got the number %d twice; want a new one for each grant", first.number)
	}
	first.End()
	if !first.Ended() || second.Ended() {
		t.Errorf("got ended %t and %t; want the first alone ended", first.Ended(), second.Ended())
	}
}

func TestContextCarriesTheInnermostLease(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	if _, err := SQL(ctx); !errors.Is(err, ErrNoLease) {
		t.Errorf("got %v; want ErrNoLease", err)
	}
	for key := range int64(2) {
		ctx = With(ctx, New(key, time.Second, counter()))
		got, ok := From(context.WithoutCancel(ctx))
		if !ok || got.Key() != key {
			t.Errorf("got the lease of %d, %t; want that of %d", got.Key(), ok, key)
		}
	}
}

// Other programs send the statement as it is, by whatever their language has: it
// is one SELECT, on one line, without anything that is taken for a parameter.
func TestSQLForOtherPrograms(t *testing.T) {
	t.Parallel()
	statement, err := SQL(With(context.Background(), New(42, 1500*time.Millisecond, counter())))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(statement, "SELECT ") || strings.Contains(statement, ";") {
		t.Errorf("got %q; want one SELECT", statement)
	}
	if bad := regexp.MustCompile(`[%?\n\\{}$]|[^:]:[a-z]`).FindString(statement); bad != "" {
		t.Errorf("got %q in %q; want nothing that a driver takes for a parameter", bad, statement)
	}
	if !strings.Contains(statement, "'1500ms'") {
		t.Errorf("got %q; want the TTL in it", statement)
	}
}

var call = regexp.MustCompile(`pg_\w*advisory\w*\(-?\d+\)`)

// A transaction looks at its number before and after it shares the gate: the look
// that counts comes after.
func TestCheckLooksAfterTheGate(t *testing.T) {
	t.Parallel()
	l := New(42, time.Second, counter())
	number, gate := fmt.Sprintf("pg_try_advisory_xact_lock_shared(%d)", l.number), fmt.Sprintf("pg_try_advisory_xact_lock_shared(%d)", l.Gate())
	want := fmt.Sprint([]string{number, gate, number})
	for _, statement := range []string{l.CheckSQL(), l.RaiseSQL()} {
		if got := fmt.Sprint(call.FindAllString(statement, -1)); got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	}
}

// The next holder takes its number and looks for what pg_locks has of the family and
// the gate. A bare number would be an int4 or an int8, depending on its size, and
// pg_stat_statements would take these for different statements.
func TestPassLooksForFamilyAndGate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		key   int64
		quick bool
	}{{42, false}, {-1, false}, {42, true}} {
		l := New(tc.key, time.Second, counter())
		statement := l.PassSQL(tc.quick)
		if got, want := fmt.Sprint(call.FindAllString(statement, -1)), fmt.Sprintf("[pg_try_advisory_xact_lock(%d)]", l.number); got != want {
			t.Errorf("got %s; want %s", got, want)
		}
		gate := uint64(l.Gate()) //nolint:gosec // the bits
		want := fmt.Sprintf("['%d'::pg_catalog.oid '%d'::pg_catalog.oid '%d'::pg_catalog.oid]", l.Family(), gate>>32, uint32(gate))
		if got := fmt.Sprint(regexp.MustCompile(`\S+::pg_catalog\.oid`).FindAllString(statement, -1)); got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	}
}
