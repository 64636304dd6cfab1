package test

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	comment  = regexp.MustCompile(`(?m)^\s*// ?`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	promised = regexp.MustCompile(`(?m)^\t\{"([^"]+)", \w+\},$`)
)

// A promise that no test would miss is advertising. The table is read by people, who
// check what this test cannot: that the test fails if the sentence is false.
func TestPromises(t *testing.T) {
	t.Parallel()
	tests := allTests(t)
	var file, text, sentence string
	rows, untested := 0, 0
	for _, line := range strings.Split(readDoc(t, "promises.txt"), "\n") {
		proof, isProof := strings.CutPrefix(line, "\t= ")
		said, isSentence := strings.CutPrefix(line, "\t")
		switch {
		case line == "", line[0] == '#':
		case isProof:
			rows++
			for _, test := range strings.Split(proof, "; ") {
				if strings.HasPrefix(test, "none: ") {
					untested++
				} else if !tests[test] {
					t.Errorf("%s, %q: there is no test %s", file, sentence, test)
				}
			}
		case isSentence:
			if sentence = said; !strings.Contains(text, sentence) {
				t.Errorf("%s no longer says %q", file, sentence)
			}
		default:
			file = line
			text = strings.Join(strings.Fields(comment.ReplaceAllString(readDoc(t, filepath.Join("..", file)), "")), " ")
		}
	}
	if rows < 25 || untested > 5 {
		t.Errorf("got %d promises, %d of them without a test; want 25 at least, and 5 at most", rows, untested)
	}
}

// allTests are the tests of the repository, with their folders, and the promises of the
// conformance suite.
func allTests(t *testing.T) map[string]bool {
	t.Helper()
	tests := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		folder := strings.TrimPrefix(strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".."), "/")
		switch {
		case strings.HasSuffix(path, "_test.go"):
			for _, m := range testFunc.FindAllStringSubmatch(readDoc(t, path), -1) {
				tests[strings.TrimPrefix(folder+"/"+m[1], "/")] = true
			}
		case folder == "test/conformance" && strings.HasSuffix(path, ".go"):
			for _, m := range promised.FindAllStringSubmatch(readDoc(t, path), -1) {
				tests["conformance: "+m[1]] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

func TestNothingButTheStandardLibrary(t *testing.T) {
	t.Parallel()
	const module = "github.com/bootlock/bootlock"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}",
		module+"/schemaguard", module+"/advisorylock", module+"/advisorylock/locktrace").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	for _, path := range packages {
		if !strings.HasPrefix(path, module+"/") {
			t.Errorf("programs that use this module get %s as well", path)
		}
	}
	if len(packages) < 3 {
		t.Errorf("got packages %q; want those of the module", packages)
	}
}
