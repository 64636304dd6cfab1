package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// The code moves on; a mutant that no longer fits would not be missed.
func TestListFits(t *testing.T) {
	t.Parallel()
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	mutants, err := list(root)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string][]string{} // by folder
	for _, m := range mutants {
		if _, err := m.apply(root); err != nil {
			t.Error(err)
		}
		if tests[m.In] == nil {
			tests[m.In] = testsIn(t, filepath.Join(root, m.In))
		}
		for _, name := range m.tests() {
			if !slices.ContainsFunc(tests[m.In], regexp.MustCompile(name).MatchString) {
				t.Errorf("%v: there is no %s in %s", m, name, m.In)
			}
		}
	}
}

var testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)

func testsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d test files in %s, and %v; want some", len(files), dir, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range testFunc.FindAllSubmatch(text, -1) {
			names = append(names, string(match[1]))
		}
	}
	return names
}

func TestRed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ out, want string }{
		{"ok  \tx\t0.1s\n", ""},
		{"--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/b (0.00s)\n        --- FAIL: TestA/b/c (0.00s)\n--- FAIL: TestZ (0.00s)\nFAIL\n", "TestA/b/c"},
		{"panic: test timed out after 2m0s\n\trunning tests:\n\t\tTestA (2m0s)\n", "TestA (hangs)"},
		{"panic: boom\n\ngoroutine 1\n", "a panic: boom"},
		{"x.go:1:2: undefined: y\nFAIL\tx [build failed]\n", ""},
	} {
		if got := red(test.out); got != test.want {
			t.Errorf("got %q; want %q, of\n%s", got, test.want, test.out)
		}
	}
}
