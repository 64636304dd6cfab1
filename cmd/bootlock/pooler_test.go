//go:build unix

package main

import (
	"strings"
	"testing"

	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

// In statement mode there are no transactions, and so no locks. The server is
// there all the same: it is not "lost".
func TestStatementMode(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	dsn := pgbouncer.New(t, server, "statement", pgbouncer.Plenty).DSN(server.NewDB(t))
	for _, test := range []call{
		{[]string{"run", "--lock", "a", "--", "echo", "started"}, exitOwn, "statement mode"},
		{[]string{"ensure", "--schema", "app", "--", "echo", "started"}, exitOwn, "statement mode"},
		{[]string{"doctor"}, exitFailed, "pool_mode=transaction"},
	} {
		if said := test.check(t, "DATABASE_URL="+dsn); strings.Contains(said, "started") {
			t.Errorf("%v: got %q; want nothing started", test.args, said)
		}
	}
}

func TestTransactionMode(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	dsn := pgbouncer.New(t, server, "transaction", pgbouncer.Plenty).DSN(server.NewDB(t))
	for _, test := range []call{
		{[]string{"run", "--lock", "a", "--", "bootlock", "run", "--lock", "b", "--", "sh", "-c", "exit 3"}, 3, ""},
		{[]string{"run", "--lock", "a", "--", "bootlock", "run", "--lock", "a", "--", "true"}, exitUsage, ""},
		{[]string{"run", "--lock", "a", "--", "env", "BOOTLOCK_HELD=", "bootlock", "run", "--lock", "a", "--try", "--", "true"}, exitNotInTime, ""},
		{[]string{"ensure", "--schema", "app", "--serialize", "--unless", "SELECT false", "--", "sh", "-c", "exit 4"}, 4, ""},
		{[]string{"wait", "--until", "SELECT true", "--timeout", "20s"}, 0, ""},
		{[]string{"locks"}, 0, ""},
		{[]string{"locks"}, 0, ""}, // on a session where the first would have left what it prepared
		{[]string{"doctor"}, 0, ""},
	} {
		test.check(t, "DATABASE_URL="+dsn)
	}
}
