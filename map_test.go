package bootlock_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// CONTRIBUTING.md has a map of the code; a file that was renamed must be renamed there.
func TestMapNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("test/go.mod"); err != nil {
		t.Skip("not tested outside the repository: the other modules are not here")
	}
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, ok := strings.Cut(string(text), "## Where things are")
	if !ok {
		t.Fatal("CONTRIBUTING.md has no map")
	}
	tables, _, _ = strings.Cut(tables, "## Releases")
	paths := regexp.MustCompile("`([\\w./]+(?:/|\\.go))`").FindAllStringSubmatch(tables, -1)
	if len(paths) < 30 {
		t.Fatalf("got %d paths; want the whole map", len(paths))
	}
	for _, path := range paths {
		if _, err := os.Stat(path[1]); err != nil {
			t.Errorf("CONTRIBUTING.md names what is not there: %v", err)
		}
	}
}
