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

const (
	recipesFile = "../../docs/recipes.md"

	// envRecipes is "all" where the recipes must run whose tools not every
	// machine has; elsewhere they are skipped if a tool is missing.
	envRecipes = "BOOTLOCK_RECIPES"
)

// tools are what the recipes of a folder of testdata/recipes need, and what
// prepares it, once.
var tools = map[string]struct {
	commands []string
	prepare  []string
}{
	"psql":         {commands: []string{"psql"}},
	"alembic":      {commands: []string{"alembic"}},
	"django":       {commands: []string{"django-admin"}},
	"activerecord": {commands: []string{"ruby"}},
	"node":         {commands: []string{"npm", "npx"}, prepare: []string{"npm", "install", "--no-audit", "--no-fund"}},
}

var (
	recipeKind = regexp.MustCompile("^<!-- test: (\\S+) -->\n")
	notRunHere = regexp.MustCompile(`Not\s+run\s+by\s+a\s+test`)
	together   = regexp.MustCompile(`by (four|eight)\s+processes\s+at\s+once`)
)

// TestRecipes runs the shell of docs/recipes.md, and holds the document to what
// it says: each block is run here or said not to be, and those that say that they
// are run by several processes at once are.
func TestRecipes(t *testing.T) {
	document, err := os.ReadFile(recipesFile)
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	folders := map[string]string{} // that are prepared
	paragraphs := strings.Split(string(document), "\n\n")
	for i, text := range paragraphs {
		kind := recipeKind.FindStringSubmatch(text)
		if kind != nil {
			text = text[len(kind[0]):]
		}
		if !strings.HasPrefix(text, "```") {
			continue
		}
		blocks++
		before := paragraphs[i-1]
		language, script, _ := strings.Cut(strings.TrimPrefix(text, "```"), "\n")
		script, _, closed := strings.Cut(script, "\n```")
		for j := i + 1; !closed; j++ {
			var more string
			more, _, closed = strings.Cut(paragraphs[j], "\n```")
			script += "\n\n" + more
		}
		notRun := notRunHere.MatchString(before)
		if (kind == nil) != notRun || kind != nil && (language != "sh" || !regexp.MustCompile(`Run\s+by\s+a\s+test`).MatchString(before)) {
			t.Errorf("this block must be said to be run by a test or not to be:\n%s", text)
			continue
		}
		if kind != nil {
			processes := map[string]int{"four": 4, "eight": 8}
			n := 1
			if match := together.FindStringSubmatch(before); match != nil {
				n = processes[match[1]]
			}
			name, _, _ := strings.Cut(script, "\n")
			t.Run(name, func(t *testing.T) { runRecipe(t, folders, kind[1], script, n) })
		}
	}
	for _, folder := range folders {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	}
	if blocks == 0 {
		t.Fatal("no recipes found")
	}
}

func runRecipe(t *testing.T, folders map[string]string, kind, script string, processes int) {
	t.Helper()
	root, _, _ := strings.Cut(kind, "/")
	needs, ok := tools[root]
	if !ok {
		t.Fatalf("no recipe of kind %q is known here", kind)
	}
	for _, tool := range needs.commands {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv(envRecipes) == "all" || kind == "psql" {
				t.Fatalf("the recipe needs %s: %v", tool, err)
			}
			t.Skipf("NOT RUN: the recipe needs %s: %v", tool, err)
		}
	}
	if needs.prepare != nil && os.Getenv(envRecipes) != "all" {
		t.Skipf("NOT RUN: the recipe needs %q, which takes a network: set %s=all", needs.prepare, envRecipes)
	}
	if folders[root] == "" {
		folders[root] = copyOf(t, root)
		if needs.prepare != nil {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			shell(ctx, t, folders[root], "", strings.Join(needs.prepare, " "))()
		}
	}
	folder := filepath.Join(folders[root], strings.TrimPrefix(kind, root))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if strings.Contains(script, "recipe_db") { // which is not in the recipe's own database
		t.Cleanup(func() {
			shell(context.Background(), t, folder, "", `psql -qX -c "DROP DATABASE recipe_db" -c "DROP ROLE recipe_db_reader" "`+pgtest.Shared(t).DSN+`"`)()
		})
	}
	// SQLAlchemy does not know postgres://, everybody knows postgresql://.
	dsn := strings.Replace(pgtest.Shared(t).NewDB(t), "postgres://", "postgresql://", 1)
	waits := make([]func(), processes)
	for i := range waits {
		waits[i] = shell(ctx, t, folder, dsn, script)
	}
	for _, wait := range waits {
		wait()
	}
}

// copyOf copies a folder of testdata/recipes.
func copyOf(t *testing.T, kind string) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "bootlock-recipes-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(folder, os.DirFS("testdata/recipes/"+kind)); err != nil {
		t.Fatal(err)
	}
	return folder
}

// shell starts a script; the result waits for it, and fails the test if it did.
func shell(ctx context.Context, t *testing.T, folder, dsn, script string) (wait func()) {
	t.Helper()
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
		if err := cmd.Wait(); err != nil {
			t.Errorf("got %v; want success of\n%s\nit said:\n%s", err, script, said.String())
		}
	}
}
