// Package legacy holds one program twice, before and after it adopted the guard.
package legacy

import (
	"context"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/test/pgtest"
)

const processes = 8

func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.Shutdown()
	os.Exit(code)
}

// The promise to legacy code bases: three lines, two of them imports.
func TestDiffIsThreeLines(t *testing.T) {
	t.Parallel()
	before, after := code(t, "before"), code(t, "after")
	var added []string
	for _, line := range after {
		if !slices.Contains(before, line) {
			added = append(added, line)
		}
	}
	if len(added) != 3 {
		t.Errorf("got %d new lines; want 3:\n%s", len(added), strings.Join(added, "\n"))
	}
	if got, want := len(after)-len(before), 2; got != want {
		t.Errorf("the program grew by %d lines; want %d, and one line changed", got, want)
	}
}

// code returns the lines of a program without its comments.
func code(t *testing.T, program string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(program, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "//")
	})
}

// gates are where the processes are held up until all are there: each has found
// that what it is about to create is missing, and its insert into the catalog
// waits for the test. Without a guard one process wins.
var gates = []struct {
	catalog string
	before  string // what is there already
	loser   string // what the others die of, as a regular expression
}{
	{"pg_namespace", "SELECT 1", "pg_namespace_nspname_index"},
	{"pg_class", "CREATE SCHEMA app", "duplicate key value|already exists"},
}

func TestBeforeFailsAndAfterDoesNot(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		program string
		failed  int
	}{
		{"before", processes - 1},
		{"after", 0},
	} {
		for _, gate := range gates {
			t.Run(test.program+"/"+gate.catalog, func(t *testing.T) {
				t.Parallel()
				failed := 0
				for _, out := range startAll(t, test.program, gate.catalog, gate.before) {
					if out == "" {
						continue
					}
					failed++
					if !regexp.MustCompile(gate.loser).MatchString(out) {
						t.Errorf("got %q; want it to match %s", out, gate.loser)
					}
				}
				if failed != test.failed {
					t.Errorf("%d of %d processes failed; want %d", failed, processes, test.failed)
				}
			})
		}
	}
}

// startAll returns what each process said that failed.
func startAll(t *testing.T, program, catalog, before string) []string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), program)
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./"+program).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dsn := pgtest.Shared(t).NewDB(t)
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	gate, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Rollback()
	if _, err := gate.ExecContext(t.Context(), "LOCK TABLE pg_catalog."+catalog+" IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}

	ends := make(chan string, processes)
	for range processes {
		cmd := exec.CommandContext(t.Context(), binary)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
		go func() {
			out, err := cmd.CombinedOutput()
			if err == nil {
				out = nil
			} else if len(out) == 0 {
				out = []byte(err.Error())
			}
			ends <- string(out)
		}()
	}
	awaitWaiters(t, db)
	if err := gate.Rollback(); err != nil {
		t.Fatal(err)
	}
	outs := make([]string, processes)
	for i := range outs {
		outs[i] = <-ends
	}
	return outs
}

// awaitWaiters returns when all processes wait for a lock.
func awaitWaiters(t *testing.T, db *sql.DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for waiting := 0; waiting < processes; {
		err := db.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&waiting)
		if err != nil {
			t.Fatalf("%d of %d processes wait: %v", waiting, processes, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
