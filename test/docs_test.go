package test

import (
	"encoding/json"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/test/pgtest"
)

const readmeFile = "../README.md"

func readDoc(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// overlay is packages of this module that exist in the build only.
type overlay struct {
	dir     string
	replace map[string]string
}

func newOverlay(t *testing.T) *overlay { return &overlay{t.TempDir(), map[string]string{}} }

func (o *overlay) add(t *testing.T, path, source string) {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.dir, fmt.Sprintf("%d.go", len(o.replace)))
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	o.replace[filepath.Join(root, path)] = file
}

// goTool runs the go command with the overlay.
func (o *overlay) goTool(t *testing.T, command string, args ...string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"Replace": o.replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.dir, "overlay.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{command, "-overlay=" + file}, args...)
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", command, err, out)
	}
}

// blockFile is the name of a file for a block. Those with tests in them are
// tests.
func blockFile(i int, source string) string {
	if strings.Contains(source, "testing.T)") {
		return fmt.Sprintf("block%d_test.go", i)
	}
	return fmt.Sprintf("block%d.go", i)
}

// Every Go block of the documents compiles as it stands, and is as gofmt writes it.
func TestDocsCompile(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	var packages, tests []string
	for _, file := range []string{readmeFile, "../docs/go-recipes.md"} {
		blocks := goBlock.FindAllStringSubmatch(readDoc(t, file), -1)
		if len(blocks) == 0 {
			t.Errorf("%s has no Go code", file)
		}
		for i, block := range blocks {
			if formatted, err := format.Source([]byte(block[1])); err != nil || string(formatted) != block[1] {
				t.Errorf("%s, block %d is not as gofmt writes it: %v", file, i, err)
			}
			dir := fmt.Sprintf("%s%d", strings.TrimSuffix(filepath.Base(file), ".md"), i)
			name := blockFile(i, block[1])
			o.add(t, filepath.Join("docs", dir, name), block[1])
			if strings.HasSuffix(name, "_test.go") {
				tests = append(tests, "./docs/"+dir)
			} else {
				packages = append(packages, "./docs/"+dir)
			}
		}
	}
	// Without vet, which would go to folders that are not there.
	o.goTool(t, "build", packages...)
	o.goTool(t, "test", append([]string{"-vet=off", "-c", "-o", t.TempDir()}, tests...)...)
}

// The README's code runs, and prints what the README says.
func TestREADMERuns(t *testing.T) {
	t.Parallel()
	readme := readDoc(t, readmeFile)
	o := newOverlay(t)
	for i, block := range goBlock.FindAllStringSubmatch(readme, -1) {
		o.add(t, filepath.Join("docs", "start", blockFile(i, block[1])), block[1])
	}
	o.add(t, "docs/start/run_test.go", readDoc(t, "testdata/readme/run_test.go"))
	binary := filepath.Join(t.TempDir(), "readme.test")
	o.goTool(t, "test", "-vet=off", "-c", "-o", binary, "./docs/start")

	order := regexp.MustCompile(`(?m)^ +(connect > begin.*)$`).FindStringSubmatch(readme)
	if order == nil {
		t.Fatal("the README shows no order")
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.v")
	cmd.Env = append(os.Environ(), "README_DSN="+pgtest.Shared(t).NewDB(t), "README_ORDER="+order[1])
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("the README's code fails: %v\n%s", err, out)
	}
	for _, test := range []string{"TestStartOnAServer", "TestOrder", "TestStart"} {
		if !strings.Contains(string(out), "--- PASS: "+test+" ") {
			t.Errorf("%s did not run:\n%s", test, out)
		}
	}
}

// A reader who has just had the error finds it at once, and reads to the end.
func TestREADMEIsShort(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSuffix(readDoc(t, readmeFile), "\n"), "\n")
	if len(lines) > 170 {
		t.Errorf("the README has %d lines; want 170 at most", len(lines))
	}
	for what, limit := range map[string]int{"pg_namespace_nspname_index": 10, "```diff": 20} {
		at := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, what) }) + 1
		if at == 0 || at > limit {
			t.Errorf("%s stands on line %d; want it by line %d", what, at, limit)
		}
	}
}

// The statements that the documents show are those that are sent.
func TestStatementsInTheDocs(t *testing.T) {
	t.Parallel()
	plain := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	source := regexp.MustCompile(`\{(idle limit|as before|in vain|or short)\}`).ReplaceAllString(readDoc(t, "../advisorylock/statement.go"), "")
	source = plain(strings.ReplaceAll(source, "{key}", "<key>"))
	source = strings.ReplaceAll(source, "{need}", "<need>")
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(readDoc(t, "../docs/how-it-works.md"), -1)
	if len(blocks) < 3 {
		t.Errorf("found %d statements; want the first attempt, the poll and the queue", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(source, plain(block[1])) {
			t.Errorf("advisorylock/statement.go has no such statement:\n%s", block[1])
		}
	}
}

// The change that the README shows is the one between two programs that run.
func TestREADMEDiff(t *testing.T) {
	t.Parallel()
	diff := regexp.MustCompile("(?s)```diff\n(.*?)```").FindStringSubmatch(readDoc(t, readmeFile))
	if diff == nil {
		t.Fatal("the README has no diff")
	}
	programs := map[byte][]string{}
	for sign, variant := range map[byte]string{'-': "before", '+': "after"} {
		programs[sign] = strings.Split(readDoc(t, "../examples/adopt/legacy/"+variant+"/main.go"), "\n")
	}
	for _, line := range strings.Split(strings.TrimSuffix(diff[1], "\n"), "\n") {
		if !slices.Contains(programs[line[0]], line[1:]) {
			t.Errorf("%q is in no program", line)
		}
		if width := len(strings.ReplaceAll(line, "\t", "    ")); width > 100 {
			t.Errorf("%q is %d columns wide; want 100 at most", line, width)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code    = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// Every link inside the repository leads to a file, and to a heading in it.
func TestLinks(t *testing.T) {
	t.Parallel()
	var files []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../examples/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	links := 0
	for _, file := range files {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(readDoc(t, file), ""), -1) {
			if strings.HasPrefix(m[1], "https://") {
				continue // nothing on the network is asked for
			}
			links++
			path, anchor, _ := strings.Cut(m[1], "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", file, m[1])
			} else if anchor != "" && !slices.Contains(anchors(readDoc(t, target)), anchor) {
				t.Errorf("%s links to %s, and there is no such heading", file, m[1])
			}
		}
	}
	if links < 20 {
		t.Errorf("found %d links; want 20 at least", links)
	}
}

// anchors are what GitHub makes of headings.
func anchors(text string) []string {
	var all []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		slug := strings.ToLower(strings.ReplaceAll(m[1], " ", "-"))
		all = append(all, regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(slug, ""))
	}
	return all
}
