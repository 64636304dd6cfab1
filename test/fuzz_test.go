package test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

var oddNames = []string{
	"app", "", "App", `a"b`, "a'b", `a\b`, `"; DROP SCHEMA public; --`, "a.b", " ", "pg_app", "PG_app", "\x00", "a\x00b", "\xff", "日本語",
	strings.Repeat("x", 63), strings.Repeat("x", 64), strings.Repeat("é", 31), strings.Repeat("é", 32), "*/", "/*", "$1", "$bootlock$", "%s", "\n", "\u202e",
}

// fuzzPools are pools on one database for all inputs of a target: to make one takes
// much longer than to try an input.
func fuzzPools(f *testing.F) map[string]*sql.DB {
	dsn := pgtest.Shared(f).NewDB(f)
	pools := map[string]*sql.DB{}
	for _, driver := range drivers {
		pools[driver] = sqltest.Open(f, driver, dsn)
	}
	return pools
}

// A schema has exactly the name that Ensure was given, or Ensure refuses the name,
// for a reason.
func FuzzSchemaName(f *testing.F) {
	for _, name := range oddNames {
		f.Add(name)
	}
	pools := fuzzPools(f)
	f.Fuzz(func(t *testing.T, name string) {
		bad := name == "" || len(name) > 63 || strings.Contains(name, "\x00") || !utf8.ValidString(name) || strings.HasPrefix(name, "pg_")
		for driver, db := range pools {
			err := schemaguard.Guard{SkipIfExists: true}.Ensure(t.Context(), db, name, nil)
			if bad != (err != nil) {
				t.Fatalf("%s, %q: got %v; want it refused: %t", driver, name, err, bad)
			}
			if bad {
				continue
			}
			if !sqltest.Ask[bool](t, db, "SELECT count(*) = 1 FROM pg_namespace WHERE nspname = $1 AND oid > 16384", name) && name != "public" {
				t.Fatalf("%s, %q: there is no such schema", driver, name)
			}
			if name != "public" {
				sqltest.Exec(t, db, "DROP SCHEMA "+quoted(name))
			}
		}
	})
}

// A lock may be called anything: its name stands in statements, its key is what SQL
// makes of it, and its session is found.
func FuzzLockName(f *testing.F) {
	for _, name := range oddNames {
		f.Add(name)
	}
	pools := fuzzPools(f)
	f.Fuzz(func(t *testing.T, name string) {
		key := advisorylock.KeyOf(name)
		for driver, db := range pools {
			if utf8.ValidString(name) && !strings.Contains(name, "\x00") {
				got := sqltest.Ask[int64](t, db, "SELECT ('x' || left(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 16))::bit(64)::bigint", name)
				if advisorylock.Key(got) != key {
					t.Fatalf("%s, %q: got key %d of SQL; want %d", driver, name, got, key)
				}
			}
			err := advisorylock.Locker{Name: name}.TryHold(t.Context(), db, key, func(ctx context.Context) error {
				sessions, err := advisorylock.Sessions(ctx, db, key)
				if err == nil && (len(sessions) != 1 || !sessions[0].Granted) {
					return fmt.Errorf("got sessions %v; want one that holds", sessions)
				}
				return err
			})
			if err != nil {
				t.Fatalf("%s, %q: %v", driver, name, err)
			}
		}
	})
}
