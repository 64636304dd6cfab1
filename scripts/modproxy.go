//go:build ignore

// Modproxy writes the modules in the working tree into a folder that serves as a
// module proxy (GOPROXY=file://…), so that a user's view of them can be tested
// before they are published. A replace directive would leave no trace in go.sum.
//
// Each go.mod in the folder says that it requires the others in VERSION, whatever
// it says in the working tree.
//
//	go run scripts/modproxy.go VERSION FOLDER
package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

const repository = "github.com/bootlock/bootlock"

func main() {
	log.SetFlags(0)
	log.SetPrefix("modproxy: ")
	if len(os.Args) != 3 {
		log.Fatal("usage: modproxy VERSION FOLDER")
	}
	version, folder := os.Args[1], os.Args[2]
	files, err := worktree()
	if err != nil {
		log.Fatal(err)
	}
	for dir, files := range split(files) {
		if err := write(dir, files, version, folder); err != nil {
			log.Fatalf("%s: %v", dir, err)
		}
	}
}

// worktree lists what is committed or would be: not what is ignored or gone.
func worktree() (files []string, err error) {
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	for _, f := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if info, err := os.Lstat(f); err == nil && info.Mode().IsRegular() {
			files = append(files, f)
		}
	}
	return files, nil
}

// split gives each file to the module that it belongs to: the nearest folder above
// it with a go.mod.
func split(files []string) map[string][]string {
	modules := map[string][]string{}
	for _, f := range files {
		if path.Base(f) == "go.mod" {
			modules[path.Dir(f)] = nil
		}
	}
	for _, f := range files {
		dir := path.Dir(f)
		for {
			if _, ok := modules[dir]; ok {
				break
			}
			dir = path.Dir(dir)
		}
		modules[dir] = append(modules[dir], f)
	}
	return modules
}

func write(dir string, files []string, version, folder string) error {
	module := path.Join(repository, dir)
	gomod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	gomod = regexp.MustCompile(`(?m)^(\t|require )(`+regexp.QuoteMeta(repository)+`(/\S+)?) v\S+`).
		ReplaceAll(gomod, []byte("$1$2 "+version))

	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	add := func(name string, data []byte) error {
		w, err := z.Create(module + "@" + version + "/" + name)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	for _, f := range files {
		data := gomod
		if path.Base(f) != "go.mod" {
			if data, err = os.ReadFile(f); err != nil {
				return err
			}
		}
		if err := add(strings.TrimPrefix(f, dir+"/"), data); err != nil {
			return err
		}
	}
	if dir != "." { // as the go command does for a module without one
		license, err := os.ReadFile("LICENSE")
		if err != nil {
			return err
		}
		if err := add("LICENSE", license); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}

	served := filepath.Join(folder, filepath.FromSlash(module), "@v")
	if err := os.MkdirAll(served, 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": fmt.Appendf(nil, `{"Version":%q,"Time":"2000-01-01T00:00:00Z"}`, version),
		version + ".mod":  gomod,
		version + ".zip":  buf.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(served, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
