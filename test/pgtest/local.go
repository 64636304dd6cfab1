package pgtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// BinDir returns the folder of the newest server binaries on this machine.
func BinDir() (string, error) {
	for _, dir := range binDirs() {
		if hasBinaries(dir) {
			return dir, nil
		}
	}
	return "", errors.New("no folder with initdb and postgres found (pg_config --bindir, /usr/lib/postgresql/*/bin, PATH and the usual others)")
}

// binDirs returns where server binaries may be, in the order of preference.
// pg_config comes with client packages too, so what it names may not be there.
var binDirs = func() []string {
	var dirs []string
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	dirs = append(dirs, newestFirst("/usr/lib/postgresql/*/bin")...) // Debian
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/pgsql-*/bin",                         // PGDG on Red Hat
		"/usr/libexec/postgresql*",                 // Alpine
		"/opt/homebrew/opt/postgresql*/bin",        // Homebrew
		"/usr/local/opt/postgresql*/bin",           // Homebrew on Intel
		"/home/linuxbrew/.linuxbrew/opt/*sql*/bin", // Homebrew on Linux
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/usr/local/pgsql/bin", // built from source
	} {
		dirs = append(dirs, newestFirst(pattern)...)
	}
	return dirs
}

func newestFirst(pattern string) []string {
	dirs, _ := filepath.Glob(pattern) // the patterns are well formed
	slices.Reverse(dirs)              // all versions that are tested have two digits
	return dirs
}

func hasBinaries(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if runtime.GOOS == "windows" {
			name += ".exe"
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}
