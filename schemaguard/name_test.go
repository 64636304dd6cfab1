//go:build go1.25

package schemaguard_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

// The keys are the same in every release: during a rolling deploy the old and
// the new one must exclude each other. The values come from sha256sum(1).
func TestKeysAreTheSameForEver(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ key, migrate advisorylock.Key }{
		"app":          {-7534435102854613731, -3294079554091031830},
		"schema guard": {-7964461039392230514, 1510623180887633993},
		"Ünïcode":      {6030081310307119717, -3139208256722901166},
		"public":       {6887065526354966710, -1214872416911113228},
	} {
		if got := schemaguard.KeyFor(name); got != want.key {
			t.Errorf("KeyFor(%q) = %d; want %d", name, got, want.key)
		}
		if got := schemaguard.MigrateKey(want.key); got != want.migrate {
			t.Errorf("MigrateKey(%d) = %d; want %d", want.key, got, want.migrate)
		}
	}
}

// Names are taken as they come, and looked for as they were created: a look
// that folded case or read a dot would find another schema, or none.
func TestNamesAreQuoted(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ ident, literal string }{
		"App":                         {`"App"`, `'App'`},
		"my app":                      {`"my app"`, `'my app'`},
		"a.b":                         {`"a.b"`, `'a.b'`},
		`say "hi"`:                    {`"say ""hi"""`, `'say "hi"'`},
		"it's":                        {`"it's"`, `'it''s'`},
		`back\slash`:                  {`"back\slash"`, `E'back\\slash'`},
		`\'; DROP TABLE t; --`:        {`"\'; DROP TABLE t; --"`, `E'\\''; DROP TABLE t; --'`},
		"pg":                          {`"pg"`, `'pg'`},
		"PG_CAPITALS":                 {`"PG_CAPITALS"`, `'PG_CAPITALS'`},
		strings.Repeat("ü", 31) + "x": {`"` + strings.Repeat("ü", 31) + `x"`, `'` + strings.Repeat("ü", 31) + `x'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, 1)
			g := schemaguard.Guard{SkipIfExists: true, Owner: name}
			if err := g.Ensure(t.Context(), f.db, name, nil); err != nil {
				t.Fatal(err)
			}
			f.wantSent(t,
				"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) "+want.literal,
				"BEGIN",
				strings.ReplaceAll(lockApp, schemaguard.KeyFor("app").String(), schemaguard.KeyFor(name).String()),
				"CREATE SCHEMA IF NOT EXISTS "+want.ident+" AUTHORIZATION "+want.ident,
				"COMMIT")
		})
	}
}

// Longer names would be cut by the server without an error: two of them could
// become one schema under two keys. The others it would refuse late, or worse,
// take for something else.
func TestNamesRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ schema, owner, rule string }{
		{"", "", "schema name is empty"},
		{"a\x00b", "", "schema name has a NUL byte"},
		{"a\xffb", "", "schema name is not valid UTF-8"},
		{strings.Repeat("ü", 32), "", "schema name has 64 bytes; PostgreSQL would cut it to 63"},
		{"pg_", "", "schema name starts with pg_"},
		{"app", "a\x00b", "owner name has a NUL byte"},
	} {
		f := newFixture(t, 1)
		g := schemaguard.Guard{Owner: test.owner, Trace: f.rec.Trace(), UpToDate: answer(true)}
		err := g.Ensure(t.Context(), f.db, test.schema, nothing)
		wantText(t, err, fmt.Sprintf("schemaguard.Ensure %q: the %s", test.schema, test.rule))
		f.wantSent(t)
		f.wantOrder(t, "")
	}
}
