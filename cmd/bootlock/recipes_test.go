//go:build unix

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
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

// tools are what a recipe of a kind needs, and what prepares its folder, which is
// a copy of testdata/recipes/KIND.
var tools = map[string]struct {
	commands []string
	prepare  []string
}{
	"psql":            {commands: []string{"psql"}},
	"alembic":         {commands: []string{"alembic"}},
	"graphile-worker": {commands: []string{"npm", "npx"}, prepare: []string{"npm", "install", "--no-audit", "--no-fund"}},
}

var (
	recipeKind = regexp.MustCompile("^<!-- test: (\\S+) -->\n")
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
		notRun := strings.Contains(before, "Not run by a test")
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
			t.Run(name, func(t *testing.T) { runRecipe(t, kind[1], script, n) })
		}
	}
	if blocks == 0 {
		t.Fatal("no recipes found")
	}
}

func runRecipe(t *testing.T, kind, script string, processes int) {
	needs, ok := tools[kind]
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
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("testdata/recipes/"+kind)); err != nil {
		t.Fatal(err)
	}
	// SQLAlchemy does not know postgres://, everybody knows postgresql://.
	dsn := strings.Replace(pgtest.Shared(t).NewDB(t), "postgres://", "postgresql://", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if needs.prepare != nil {
		shell(ctx, t, folder, dsn, strings.Join(needs.prepare, " "))()
	}
	waits := make([]func(), processes)
	for i := range waits {
		waits[i] = shell(ctx, t, folder, dsn, script)
	}
	for _, wait := range waits {
		wait()
	}
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
