//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/hostile"
	"github.com/bootlock/bootlock/test/pgtest"
)

// The command is often run by whoever may do most in a database.
func TestLookAlikesAreNotCalled(t *testing.T) {
	for name, path := range hostile.Paths {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.Shared(t).NewDB(t)
			hostile.Install(t, dsn)
			env := []string{"DATABASE_URL=" + pgtest.WithParams(dsn, "search_path", path)}
			if said, code := bootlock(t, env, "run", "--lock", "a", "--unless", "SELECT 1::oid = 1", "--", "true"); code != exitOwn || !strings.Contains(said, hostile.Code) {
				t.Fatalf("got exit code %d and %q; want a look-alike called, or this test proves nothing", code, said)
			}
			holds := filepath.Join(t.TempDir(), "holds")
			ended := make(chan int, 1)
			go func() {
				_, code := bootlock(t, env, "run", "--lock", "held", "--", "sh", "-c", "touch "+holds+"; exec sleep 600")
				ended <- code
			}()
			await.True(t, "the holder", func() bool { _, err := os.Stat(holds); return err == nil })
			for _, test := range []struct {
				args []string
				code int
			}{
				{[]string{"ensure", "--schema", "app", "--serialize", "--", "true"}, 0},
				{[]string{"ensure", "--schema", "app", "--bootstrap", "-", "--", "true"}, 0},
				{[]string{"wait", "--schema", "app", "--timeout", "60s"}, 0},
				{[]string{"run", "--lock", "held", "--timeout", "2500ms", "--", "true"}, exitNotInTime},
				{[]string{"run", "--lock", "held", "--shared", "--try", "--", "true"}, exitNotInTime},
				{[]string{"locks"}, 0},
				{[]string{"locks", "--all-databases", "--json", "--lock", "held"}, 0},
				{[]string{"doctor"}, 0},
				{[]string{"end", "--lock", "held", "--yes"}, 0},
			} {
				said, code := bootlock(t, env, test.args...)
				if code != test.code || strings.Contains(said, "look-alike") {
					t.Errorf("%v: got exit code %d; want %d: %s", test.args, code, test.code, said)
				}
			}
			if code := await.Value(t, ended); code != exitLost {
				t.Errorf("got exit code %d of the holder that was ended; want %d", code, exitLost)
			}
		})
	}
}
