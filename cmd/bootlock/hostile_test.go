//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/hostile"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// hold returns when a command holds the lock, and later its exit code.
func hold(t *testing.T, lock string, env ...string) (ended <-chan int) {
	t.Helper()
	holds, done := filepath.Join(t.TempDir(), "holds"), make(chan int, 1)
	go func() {
		_, code := bootlock(t, env, "run", "--lock", lock, "--", "sh", "-c", "touch "+holds+"; exec sleep 600")
		done <- code
	}()
	await.True(t, "the holder", func() bool { _, err := os.Stat(holds); return err == nil })
	return done
}

// The command is often run by whoever may do most in a database.
func TestLookAlikesAreNotCalled(t *testing.T) {
	for name, path := range hostile.Paths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Shared(t).NewDB(t)
			hostile.Install(t, dsn)
			env := []string{"DATABASE_URL=" + pgtest.WithParams(dsn, "search_path", path)}
			call{[]string{"run", "--lock", "a", "--unless", "SELECT 1::oid = 1", "--", "true"}, exitOwn, hostile.Code}.check(t, env...) // or this test proves nothing
			ended := hold(t, "held", env...)
			for _, test := range []call{
				{[]string{"ensure", "--schema", "app", "--serialize", "--", "true"}, 0, ""},
				{[]string{"ensure", "--schema", "app", "--bootstrap", "-", "--", "true"}, 0, ""},
				{[]string{"wait", "--until", "SELECT true", "--timeout", "60s"}, 0, ""},
				{[]string{"run", "--lock", "held", "--timeout", "2500ms", "--", "true"}, exitNotInTime, ""},
				{[]string{"run", "--lock", "held", "--try", "--", "true"}, exitNotInTime, ""},
				{[]string{"locks"}, 0, ""},
				{[]string{"locks", "--all-databases", "--json", "--lock", "held"}, 0, ""},
				{[]string{"doctor"}, 0, ""},
				{[]string{"end", "--lock", "held", "--yes"}, 0, ""},
			} {
				if said := test.check(t, env...); strings.Contains(said, "look-alike") {
					t.Errorf("%v: got %q", test.args, said)
				}
			}
			if code := await.Value(t, ended); code != exitLost {
				t.Errorf("got exit code %d of the holder that was ended; want %d", code, exitLost)
			}
		})
	}
}

// Roles, databases and applications have the names that others gave them. They steer
// no terminal, and are no SQL.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	const name = "\x1b[2J\x1b]0;title\a\r\n'); DROP TABLE t; --\\\\"
	server := pgtest.Shared(t)
	admin := sqltest.Open(t, "pgx", server.DSN)
	role, database := pgx.Identifier{name}.Sanitize(), pgx.Identifier{name + t.Name()}.Sanitize()
	sqltest.Exec(t, admin, "CREATE ROLE "+role+" LOGIN SUPERUSER PASSWORD 'hostile'")
	t.Cleanup(func() { sqltest.Exec(t, admin, "DROP ROLE "+role) })
	sqltest.Exec(t, admin, "CREATE DATABASE "+database)
	t.Cleanup(func() { sqltest.Exec(t, admin, "DROP DATABASE "+database+" WITH (FORCE)") })
	dsn := pgtest.WithUser(server.DSNFor(name+t.Name()), name, "hostile")
	env := []string{"DATABASE_URL=" + dsn}
	application := "DATABASE_URL=" + pgtest.WithParams(dsn, "application_name", `bootlock run (a' OR true OR 'b\', pid 1)`)
	ended := []<-chan int{hold(t, name, env...), hold(t, "other", application)}
	for _, test := range []call{
		{[]string{"run", "--lock", name, "--try", "--", "true"}, exitNotInTime, "held by pid"},
		{[]string{"run", "--lock", name, "--timeout", "3s", "--", "true"}, exitNotInTime, "waiting for"},
		{[]string{"locks"}, 0, "DROP TABLE"},
		{[]string{"locks", "--all-databases"}, 0, "  database"},
		{[]string{"doctor"}, 0, "protects"},
		{[]string{"ensure", "--schema", name, "--bootstrap", "/dev/null"}, 0, ""},
		{[]string{"run", "--lock", "x", "--unless", `SELECT "` + name + `"`, "--", "true"}, 0, "does not exist"},
		{[]string{"end", "--lock", name, "--yes"}, 0, "session has ended"},
		{[]string{"end", "--lock", "other", "--yes"}, 0, "command is gone"},
	} {
		said := test.check(t, env...)
		if i := strings.IndexFunc(said, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q: got %q, with something that steers a terminal at %d", test.args, said, i)
		}
	}
	for _, holder := range ended {
		if code := await.Value(t, holder); code != exitLost {
			t.Errorf("got exit code %d of a holder that was ended; want %d", code, exitLost)
		}
	}
}
