//go:build ignore

// Modproxy writes the module in the working tree into a folder that serves as a
// module proxy (GOPROXY=file://…), so that a user's view of it can be tested
// before it is published. A replace directive would leave no trace in go.sum.
//
//	go run scripts/modproxy.go MODULE VERSION FOLDER
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
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("modproxy: ")
	if len(os.Args) != 4 {
		log.Fatal("usage: modproxy MODULE VERSION FOLDER")
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func write(module, version, folder string) error {
	// Committed or not, but not ignored, and still there.
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	files := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")

	// A folder with a go.mod is another module and no part of this one's zip.
	var nested []string
	for _, f := range files {
		if dir := path.Dir(f); path.Base(f) == "go.mod" && dir != "." {
			nested = append(nested, dir+"/")
		}
	}
	isNested := func(f string) bool {
		for _, dir := range nested {
			if strings.HasPrefix(f, dir) {
				return true
			}
		}
		return false
	}

	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, f := range files {
		info, err := os.Lstat(f)
		if err != nil || !info.Mode().IsRegular() || isNested(f) {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		w, err := z.Create(module + "@" + version + "/" + f)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	gomod, err := os.ReadFile("go.mod")
	if err != nil {
		return err
	}

	dir := filepath.Join(folder, filepath.FromSlash(module), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": fmt.Appendf(nil, `{"Version":%q,"Time":"2000-01-01T00:00:00Z"}`, version),
		version + ".mod":  gomod,
		version + ".zip":  buf.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
