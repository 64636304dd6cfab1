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
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"run", "--lock", "a", "--", "echo", "started"}, exitOwn, "statement mode"},
		{[]string{"ensure", "--schema", "app", "--", "echo", "started"}, exitOwn, "statement mode"},
		{[]string{"doctor"}, exitFailed, "pool_mode=transaction"},
	} {
		said, code := bootlock(t, []string{"DATABASE_URL=" + dsn}, test.args...)
		if code != test.code || !strings.Contains(said, test.says) || strings.Contains(said, "started") {
			t.Errorf("%v: got exit code %d and %q; want %d and %q", test.args, code, said, test.code, test.says)
		}
	}
}

func TestTransactionMode(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	dsn := pgbouncer.New(t, server, "transaction", pgbouncer.Plenty).DSN(server.NewDB(t))
	env := []string{"DATABASE_URL=" + dsn}
	for _, test := range []struct {
		args []string
		code int
	}{
		{[]string{"run", "--lock", "a", "--", "bootlock", "run", "--lock", "b", "--", "sh", "-c", "exit 3"}, 3},
		{[]string{"run", "--lock", "a", "--", "bootlock", "run", "--lock", "a", "--", "true"}, exitUsage},
		{[]string{"run", "--lock", "a", "--", "env", "BOOTLOCK_HELD=", "bootlock", "run", "--lock", "a", "--try", "--", "true"}, exitNotInTime},
		{[]string{"ensure", "--schema", "app", "--serialize", "--unless", "SELECT false", "--", "sh", "-c", "exit 4"}, 4},
		{[]string{"wait", "--until", "SELECT true", "--timeout", "20s"}, 0},
		{[]string{"locks"}, 0},
		{[]string{"locks"}, 0}, // on a session where the first would have left what it prepared
		{[]string{"doctor"}, 0},
	} {
		if said, code := bootlock(t, env, test.args...); code != test.code {
			t.Errorf("%v: got exit code %d; want %d: %s", test.args, code, test.code, said)
		}
	}
}
