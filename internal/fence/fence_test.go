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
func TestGatesAreForEver(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		key               int64
		exclusive, shared int64
		family            uint32
	}{
		{42, -8192425933083984938, -8348376823787817835, 1965421848},
		{-1, 6761523543685462992, -1508233228941125777, 2521631492},
	} {
		l := New(tc.key, false, time.Second, counter())
		if got := l.Gates(); len(got) != 2 || got[0] != tc.exclusive || got[1] != tc.shared {
			t.Errorf("key %d: got gates %d; want %d and %d", tc.key, got, tc.exclusive, tc.shared)
		}
		if got := New(tc.key, true, time.Second, counter()).Gates(); len(got) != 1 || got[0] != tc.exclusive {
			t.Errorf("key %d, shared: got gates %d; want %d alone", tc.key, got, tc.exclusive)
		}
		if got := uint32(uint64(l.number) >> 32); got != tc.family { //nolint:gosec // the upper half
			t.Errorf("key %d: got numbers of family %d; want %d", tc.key, got, tc.family)
		}
	}
}

func TestNumberIsNewForEachGrant(t *testing.T) {
	t.Parallel()
	first := New(42, false, time.Second, Draw(nil))
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
		ctx = With(ctx, New(key, false, time.Second, counter()))
		got, ok := From(context.WithoutCancel(ctx))
		if !ok || got.Key() != key {
			t.Errorf("got the lease of %d, %t; want that of %d", got.Key(), ok, key)
		}
	}
}

// Other programs send the statement as it is, by whatever their language has: it
// is one statement, on one line, without anything that is taken for a parameter.
func TestSQLForOtherPrograms(t *testing.T) {
	t.Parallel()
	statement, err := SQL(With(context.Background(), New(42, false, 1500*time.Millisecond, counter())))
	if err != nil {
		t.Fatal(err)
	}
	body, found := strings.CutPrefix(statement, "DO $bootlock$")
	body, ends := strings.CutSuffix(body, "$bootlock$")
	if !found || !ends || strings.Contains(body, "$") {
		t.Errorf("got %q; want one DO block", statement)
	}
	if bad := regexp.MustCompile(`[%?\n\\]|[^:]:[a-z]|\$\d`).FindString(statement); bad != "" {
		t.Errorf("got %q in %q; want nothing that a driver takes for a parameter", bad, statement)
	}
	if !strings.Contains(statement, "'1500ms'") {
		t.Errorf("got %q; want the TTL in it", statement)
	}
}

// A transaction shares the gate of its own kind, and looks at its number before
// and after: the look that counts comes after the gate.
func TestCheckLooksAfterTheGate(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile(`pg_\w*advisory\w*\(-?\d+\)`)
	for _, shared := range []bool{false, true} {
		l := New(42, shared, time.Second, counter())
		number, gate := fmt.Sprintf("pg_try_advisory_xact_lock_shared(%d)", l.number), fmt.Sprintf("pg_try_advisory_xact_lock_shared(%d)", l.gate(shared))
		want := fmt.Sprint([]string{number, gate, number})
		for _, statement := range []string{l.CheckSQL(), l.RaiseSQL()} {
			if got := fmt.Sprint(call.FindAllString(statement, -1)); got != want {
				t.Errorf("got %s; want %s", got, want)
			}
		}
	}
}
