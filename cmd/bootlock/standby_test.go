//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/test/replica"
)

// bootlock runs the command as a process of its own, and returns what it said and
// its exit code.
func bootlock(t *testing.T, env []string, args ...string) (said string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bootlock", args...)
	cmd.Env = append(cmd.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run()
	return out.String(), cmd.ProcessState.ExitCode()
}

type call struct {
	args []string
	code int
	says string
}

func (c call) check(t *testing.T, env ...string) (said string) {
	t.Helper()
	said, code := bootlock(t, env, c.args...)
	if code != c.code || !strings.Contains(said, c.says) {
		t.Errorf("%q: got exit code %d and %q; want %d and %q", c.args, code, said, c.code, c.says)
	}
	return said
}

// A lock on a standby is granted and excludes nobody on the primary. run said
// nothing, and exited with 0.
func TestStandby(t *testing.T) {
	t.Parallel()
	primary, standby := replica.NewFiles(t).Start(t)
	call{[]string{"ensure", "--schema", "app"}, 0, ""}.check(t, "DATABASE_URL="+primary.DSN())
	standby.CatchUp(t, primary)
	both := func(first, second *replica.Server, more string) string {
		return fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable%s", first.Port, second.Port, more)
	}
	run := []string{"run", "--lock", "a", "--", "psql", "-qXAt", "-c", "SELECT application_name LIKE 'bootlock run%' FROM pg_stat_activity WHERE state = 'idle in transaction'", primary.DSN()}
	for _, test := range []struct {
		name, dsn string
		call
	}{
		{"run", standby.DSN(), call{run, exitUnreachable, "is a standby"}},
		{"ensure", standby.DSN(), call{[]string{"ensure", "--schema", "app"}, exitUnreachable, "is a standby"}},
		{"any server will do", standby.DSN() + "&target_session_attrs=any", call{run, exitUnreachable, "is a standby"}},
		{"a standby was asked for", both(standby, primary, " target_session_attrs=standby"), call{run, 0, "t"}},
		{"the standby first", both(standby, primary, ""), call{run, 0, "t"}},
		{"the primary first", both(primary, standby, ""), call{run, 0, "t"}},
		{"two standbys", both(standby, standby, ""), call{run, exitUnreachable, "is a standby"}},
		{"wait reads only", standby.DSN(), call{[]string{"wait", "--until", "SELECT pg_is_in_recovery()", "--timeout", "10s"}, 0, ""}},
		{"doctor", standby.DSN(), call{[]string{"doctor"}, exitFailed, "fail  primary or standby: this is a standby"}},
		{"locks", standby.DSN(), call{[]string{"locks"}, 0, "this is a standby"}},
		{"wait for what is not there", standby.DSN(), call{[]string{"wait", "--until", "SELECT true FROM other.t", "--timeout", "2s"}, exitNotInTime, "was not there"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			said := test.check(t, "DATABASE_URL="+test.dsn)
			if test.code == exitUnreachable && strings.Count(strings.TrimSpace(said), "\n") > 0 {
				t.Errorf("got %q; want one sentence", said)
			}
		})
	}
}
