package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// mutant is one way to break the code.
type mutant struct {
	File   string // from the root of the repository
	Old    string // what stands there, exactly once
	New    string // what stands there instead
	Breaks string // what it breaks
	In     string // the folder of the package whose tests should notice
	Run    string // which of them, for -run

	// Survives says why nobody could see the difference; empty if a test should.
	Survives string

	list string // it is from: fast or server
}

func (m mutant) String() string { return m.File + ": " + m.Breaks }

// repository finds the root, from wherever in it this runs.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not in the repository")
		}
	}
}

// list reads the mutants, the fast ones first.
func list(root string) ([]mutant, error) {
	var all []mutant
	for _, name := range []string{"fast", "server"} {
		var file struct{ Mutant []mutant }
		meta, err := toml.DecodeFile(filepath.Join(root, "test", "mutants", name+".toml"), &file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if unknown := meta.Undecoded(); len(unknown) > 0 {
			return nil, fmt.Errorf("%s: unknown keys %v", name, unknown)
		}
		for _, m := range file.Mutant {
			// A last newline is where the quotes of a longer text stand.
			m.Old, m.New, m.list = strings.TrimSuffix(m.Old, "\n"), strings.TrimSuffix(m.New, "\n"), name
			all = append(all, m)
		}
	}
	return all, nil
}

// apply returns the mutated text of the file.
func (m mutant) apply(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, m.File))
	if err != nil {
		return "", err
	}
	switch n := strings.Count(string(text), m.Old); {
	case m.Old == "" || m.Breaks == "" || m.In == "" || m.Run == "":
		return "", fmt.Errorf("%v: old, breaks, in and run must be there", m)
	case n != 1:
		return "", fmt.Errorf("%v: its old text is there %d times; it must be once", m, n)
	case m.Old == m.New:
		return "", fmt.Errorf("%v: changes nothing", m)
	}
	return strings.Replace(string(text), m.Old, m.New, 1), nil
}

// tests are the names of the tests in run that are tests of their own.
func (m mutant) tests() []string {
	top, _, _ := strings.Cut(m.Run, "/")
	return strings.Split(strings.Trim(top, "^$()"), "|")
}
