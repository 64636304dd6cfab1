//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
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
		got := schemaguard.KeyFor(name)
		if got != want.key {
			t.Errorf("KeyFor(%q) = %d; want %d", name, got, want.key)
		}
		if got != advisorylock.KeyOf("schemaguard:"+name) {
			t.Errorf("KeyFor(%q) is not KeyOf of the documented name", name)
		}
		if got := schemaguard.MigrateKey(want.key); got != want.migrate {
			t.Errorf("MigrateKey(%d) = %d; want %d", want.key, got, want.migrate)
		}
	}
	for key, want := range map[advisorylock.Key]advisorylock.Key{
		1: -4064148082106014999, 42: -8123672357958676586, -1 << 63: -613826261825308979,
	} {
		if got := schemaguard.MigrateKey(key); got != want {
			t.Errorf("MigrateKey(%d) = %d; want %d", key, got, want)
		}
	}
}

// Names are taken as they come, and looked for as they were created: a look
// that folded case or read a dot would find another schema, or none.
func TestNamesAreQuoted(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for name, want := range map[string]struct{ ident, literal string }{
		"app":                           {`"app"`, `'app'`},
		"App":                           {`"App"`, `'App'`},
		"my app":                        {`"my app"`, `'my app'`},
		"a.b":                           {`"a.b"`, `'a.b'`},
		`say "hi"`:                      {`"say ""hi"""`, `'say "hi"'`},
		"it's":                          {`"it's"`, `'it''s'`},
		"schéma":                        {`"schéma"`, `'schéma'`},
		"схема":                         {`"схема"`, `'схема'`},
		`back\slash`:                    {`"back\slash"`, `E'back\\slash'`},
		`\'; DROP TABLE t; --`:          {`"\'; DROP TABLE t; --"`, `E'\\''; DROP TABLE t; --'`},
		`x"; DROP SCHEMA public; --`:    {`"x""; DROP SCHEMA public; --"`, `'x"; DROP SCHEMA public; --'`},
		"$1":                            {`"$1"`, `'$1'`},
		"line\nbreak":                   {"\"line\nbreak\"", "'line\nbreak'"},
		"pg":                            {`"pg"`, `'pg'`},
		"PG_CAPITALS":                   {`"PG_CAPITALS"`, `'PG_CAPITALS'`},
		long:                            {`"` + long + `"`, `'` + long + `'`},
		strings.Repeat("ü", 31) + "x":   {`"` + strings.Repeat("ü", 31) + `x"`, `'` + strings.Repeat("ü", 31) + `x'`},
		"trailing space ":               {`"trailing space "`, `'trailing space '`},
		"AUTHORIZATION root; select 1;": {`"AUTHORIZATION root; select 1;"`, `'AUTHORIZATION root; select 1;'`},
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
				lockOf(name),
				"CREATE SCHEMA IF NOT EXISTS "+want.ident+" AUTHORIZATION "+want.ident,
				"COMMIT")
		})
	}
}

func lockOf(schema string) string {
	if schema == "app" {
		return "lock"
	}
	return strings.ReplaceAll(lockApp, schemaguard.KeyFor("app").String(), schemaguard.KeyFor(schema).String())
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
		{strings.Repeat("a", 64), "", "schema name has 64 bytes; PostgreSQL would cut it to 63"},
		{strings.Repeat("ü", 32), "", "schema name has 64 bytes; PostgreSQL would cut it to 63"},
		{"pg_app", "", "schema name starts with pg_"},
		{"pg_", "", "schema name starts with pg_"},
		{"app", "a\x00b", "owner name has a NUL byte"},
		{"app", "a\xffb", "owner name is not valid UTF-8"},
		{"app", strings.Repeat("a", 64), "owner name has 64 bytes"},
	} {
		f := newFixture(t, 1)
		asked := false
		g := schemaguard.Guard{
			Owner: test.owner, Trace: f.rec.Trace(), SkipIfExists: true,
			UpToDate: func(context.Context, *sql.DB) (bool, error) {
				asked = true
				return true, nil
			},
		}
		err := g.Ensure(t.Context(), f.db, test.schema, func(context.Context, *sql.DB) error {
			t.Errorf("%q, %q: migrate was called", test.schema, test.owner)
			return nil
		})
		if err == nil || !strings.HasPrefix(err.Error(), "schemaguard.Ensure ") || !strings.Contains(err.Error(), test.rule) {
			t.Errorf("%q, %q: got error %v; want one of schemaguard.Ensure that says %q", test.schema, test.owner, err, test.rule)
		}
		if n := len(f.Calls()); n > 0 || asked || f.rec.String() != "" {
			t.Errorf("%q, %q: refused only after %q, up to date asked: %t", test.schema, test.owner, f.String(), asked)
		}
	}
}
