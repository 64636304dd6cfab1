//go:build unix

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
)

// envRecipes is "all" where the recipes must run whose tools not every machine has;
// elsewhere they are skipped if a tool is missing, or a network to get it from.
const envRecipes = "BOOTLOCK_RECIPES"

// tools are the commands that the recipes of a folder of testdata/recipes need.
var tools = map[string]string{"psql": "psql", "alembic": "alembic", "django": "django-admin", "activerecord": "ruby", "node": "npm"}

var (
	// block is a paragraph and the code after it, with the folder that it runs in.
	block    = regexp.MustCompile("(?s)((?:[^\n]+\n)+)\n(?:<!-- test: (\\S+) -->\n)?```(\\w*)\n(.*?)\n```\n")
	runHere  = regexp.MustCompile(`Run\s+by\s+a\s+test`)
	notHere  = regexp.MustCompile(`Not\s+run\s+by\s+a\s+test`)
	together = regexp.MustCompile(`by (four|eight)\s+processes\s+at\s+once`)
)

// TestRecipes runs the shell of docs/recipes.md, and holds the document to what
// it says: each block is run here or said not to be, and those that say that they
// are run by several processes at once are.
func TestRecipes(t *testing.T) {
	document, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := block.FindAllStringSubmatch(string(document), -1)
	if got, want := len(blocks), strings.Count("\n"+string(document), "\n```")/2; got != want || got == 0 {
		t.Fatalf("got %d blocks; want %d, each after a paragraph", got, want)
	}
	scratch := t.TempDir()
	for _, b := range blocks {
		before, folder, language, script := b[1], b[2], b[3], b[4]
		if runs := folder != ""; runs == notHere.MatchString(before) || runs && (language != "sh" || !runHere.MatchString(before)) {
			t.Errorf("this block must be said to be run by a test or not to be:\n%s", script)
			continue
		}
		processes := 1
		if match := together.FindStringSubmatch(before); match != nil {
			processes = map[string]int{"four": 4, "eight": 8}[match[1]]
		}
		if name, _, _ := strings.Cut(script, "\n"); folder != "" {
			t.Run(name, func(t *testing.T) { runRecipe(t, prepared(t, scratch, folder), script, processes) })
		}
	}
}

// prepared returns a copy of a folder of testdata/recipes, in scratch.
func prepared(t *testing.T, scratch, folder string) string {
	t.Helper()
	root, _, _ := strings.Cut(folder, "/")
	all := os.Getenv(envRecipes) == "all"
	if _, err := exec.LookPath(tools[root]); err != nil {
		if all || root == "psql" || tools[root] == "" {
			t.Fatalf("the recipe needs %s: %v", tools[root], err)
		}
		t.Skipf("NOT RUN: the recipe needs %s: %v", tools[root], err)
	}
	if root == "node" && !all {
		t.Skipf("NOT RUN: npm install takes a network: set %s=all", envRecipes)
	}
	copied := filepath.Join(scratch, root)
	if _, err := os.Stat(copied); err != nil {
		if err := os.CopyFS(copied, os.DirFS(filepath.Join("testdata/recipes", root))); err != nil {
			t.Fatal(err)
		}
		if root == "node" {
			shell(t, copied, "", "npm install --no-audit --no-fund")()
		}
	}
	return filepath.Join(scratch, folder)
}

func runRecipe(t *testing.T, folder, script string, processes int) {
	t.Helper()
	if strings.Contains(script, "recipe_db") { // which is not in the recipe's own database
		t.Cleanup(func() {
			shell(t, folder, pgtest.Shared(t).DSN, `psql -qX -c "DROP DATABASE recipe_db" -c "DROP ROLE recipe_db_reader" "$DATABASE_URL"`)()
		})
	}
	// SQLAlchemy does not know postgres://, everybody knows postgresql://.
	dsn := strings.Replace(pgtest.Shared(t).NewDB(t), "postgres://", "postgresql://", 1)
	waits := make([]func(), processes)
	for i := range waits {
		waits[i] = shell(t, folder, dsn, script)
	}
	for _, wait := range waits {
		wait()
	}
}

// shell starts a script; the result waits for it, and fails the test if it did.
func shell(t *testing.T, folder, dsn, script string) (wait func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "sh", "-euc", script)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		defer cancel()
		if err := cmd.Wait(); err != nil {
			t.Errorf("got %v; want success of\n%s\nit said:\n%s", err, script, said.String())
		}
	}
}
