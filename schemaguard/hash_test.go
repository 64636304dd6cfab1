package schemaguard_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/bootlock/bootlock/schemaguard"
)

// files are in the order in which they are given, which is not that of their names.
func files(pairs ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

// The names are the same in every release: with others, every fleet would migrate
// again. They were computed by the shell command in the comment of HashFS.
func TestHashFS(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fsys fs.FS
		want string
	}{
		"testdata":          {os.DirFS("testdata/migrations"), "e773dbe6e8ffa717"},
		"one":               {files("1.sql", "CREATE TABLE t ();\n"), "9000f9d59de93219"},
		"other content":     {files("1.sql", "CREATE TABLE u ();\n"), "3d5d894075d8d526"},
		"other name":        {files("2.sql", "CREATE TABLE t ();\n"), "87d07f25c9a5efb6"},
		"empty file":        {files("1.sql", ""), "b1f20ed441da8a5b"},
		"in a folder":       {files("down/1.sql", "CREATE TABLE t ();\n"), "ab21c63181f2285f"},
		"order of lines":    {files("b", "2", "a", "1", "B", "3", "c/b", "4"), "f56332488c0ba4a9"},
		"newline in a name": {files("a\nb.sql", "x"), "3a07d3e0ce5c2a69"},
		"backslash":         {files(`a\nb.sql`, "x"), "d51b91aa4ea7d7f3"},
		"carriage return":   {files("a\rb.sql", "x"), "3d46f25e293183ca"},
		"other letters":     {files("größe 1.sql", "x"), "cf63f0f7cf8ba5fb"},
		"dots":              {files("1.sql", "CREATE TABLE t ();\n", ".hidden", "x", ".git/config", "x", "sub/.keep", "x", "sub/.x/1.sql", "x"), "9000f9d59de93219"},
	} {
		if got := schemaguard.HashFS(test.fsys); got != test.want {
			t.Errorf("%s: got %s; want %s", name, got, test.want)
		}
	}
}

// A program that was built without its migrations must not run as if it had none.
func TestHashFSPanics(t *testing.T) {
	t.Parallel()
	for name, fsys := range map[string]fs.FS{
		"empty":      fstest.MapFS{},
		"only dots":  files(".keep", ""),
		"no folder":  os.DirFS("testdata/nothing"),
		"unreadable": unreadable{files("1.sql", "x")},
	} {
		v, _ := recovered(func() { schemaguard.HashFS(fsys) }).(string)
		if !strings.HasPrefix(v, "schemaguard.HashFS: ") {
			t.Errorf("%s: got panic %q; want one of HashFS", name, v)
		}
	}
}

type unreadable struct{ fstest.MapFS }

func (u unreadable) ReadFile(string) ([]byte, error) { return nil, fs.ErrPermission }

func recovered(fn func()) (v any) {
	defer func() { v = recover() }()
	fn()
	return nil
}

// A mounted ConfigMap has nothing but links, into a folder whose name begins with dots.
func TestHashFSFollowsLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "..data")
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, "1.sql"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("..data", "1.sql"), filepath.Join(dir, "1.sql")); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	if got, want := schemaguard.HashFS(os.DirFS(dir)), schemaguard.HashFS(files("1.sql", "x")); got != want {
		t.Errorf("got %s; want %s, as for the file itself", got, want)
	}
}
