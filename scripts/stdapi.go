//go:build ignore

// Stdapi checks that the library uses nothing of the standard library that is newer
// than the go line of its go.mod, or than the build constraint of the file, by the
// lists of the toolchain itself: $GOROOT/api/go1.*.txt. The tests are checked too.
//
//	go run scripts/stdapi.go
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"go/version"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("stdapi: ")
	since, err := readLists(filepath.Join(build.Default.GOROOT, "api"))
	if err != nil {
		log.Fatal(err)
	}
	packages, err := list()
	if err != nil {
		log.Fatal(err)
	}
	tooNew := 0
	for _, p := range packages {
		if p.Standard || p.ForTest == "" && strings.HasSuffix(p.ImportPath, ".test") {
			continue
		}
		n, err := p.check(packages, since)
		if err != nil {
			log.Fatalf("%s: %v", p.ImportPath, err)
		}
		tooNew += n
	}
	if tooNew > 0 {
		os.Exit(1)
	}
}

// Two kinds of lines: "pkg context, func Cause(Context) error" and, with the name
// after a type's, "pkg sync, method (*WaitGroup) Go(func())" or "pkg net/http, type
// Server struct, Protocols *Protocols". Some packages have lines for one system.
var line = regexp.MustCompile(`^pkg ([\w/]+)(?: \([\w-]+\))?, (?:method \(\*?(\w+)(?:\[.*?\])?\) (\w+)|type (\w+)(?:\[.*?\])? (?:struct|interface), (\w+)|(?:func|type|var|const) (\w+))`)

// readLists returns the version that each exported name came with, as "go1.24".
func readLists(dir string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "go1*.txt"))
	if err != nil {
		return nil, err
	}
	if len(files) < 20 {
		return nil, fmt.Errorf("%d lists in %s; want one for each version of Go", len(files), dir)
	}
	since := map[string]string{}
	for _, file := range files {
		v := strings.TrimSuffix(filepath.Base(file), ".txt")
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			m := line.FindStringSubmatch(lines.Text())
			if m == nil {
				continue
			}
			name := m[1] + "." + m[6]
			if m[3] != "" {
				name = m[1] + "." + m[2] + "." + m[3]
			} else if m[5] != "" {
				name = m[1] + "." + m[4] + "." + m[5]
			}
			if old, ok := since[name]; !ok || version.Compare(v, old) < 0 {
				since[name] = v
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	return since, nil
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath, Dir, Export, ForTest string
	Standard                         bool
	GoFiles, CgoFiles                []string
	ImportMap                        map[string]string
	Module                           *struct{ Path, GoVersion string }
}

func list() (map[string]*pkg, error) {
	cmd := exec.Command("go", "list", "-deps", "-test", "-export", "-json", "./...")
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	packages := map[string]*pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		p := new(pkg)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		if !p.Standard && p.Module.Path != "github.com/bootlock/bootlock" {
			p.Standard = true // not ours to check either
		}
		packages[p.ImportPath] = p
	}
}

// check reports each use of a name that is too new, and returns how many there are.
func (p *pkg) check(packages map[string]*pkg, since map[string]string) (int, error) {
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return 0, err
		}
		files = append(files, f)
	}
	config := types.Config{
		GoVersion: "go" + p.Module.GoVersion,
		Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
			if mapped, ok := p.ImportMap[path]; ok {
				path = mapped
			}
			return os.Open(packages[path].Export)
		}),
	}
	info := &types.Info{
		Uses:         map[*ast.Ident]types.Object{},
		Selections:   map[*ast.SelectorExpr]*types.Selection{},
		FileVersions: map[*ast.File]string{},
	}
	path, _, _ := strings.Cut(p.ImportPath, " ")
	if _, err := config.Check(path, fset, files, info); err != nil {
		return 0, err
	}
	tooNew := 0

	// The others must do without the files that are for newer versions.
	old := slices.DeleteFunc(slices.Clone(files), func(f *ast.File) bool {
		return version.Compare(info.FileVersions[f], config.GoVersion) > 0
	})
	if len(old) < len(files) {
		config.Error = func(err error) {
			log.Printf("without the files for newer versions: %v", err)
			tooNew++
		}
		_, _ = config.Check(path, fset, old, nil) // its errors were reported
	}
	for _, f := range files {
		allowed := info.FileVersions[f]
		ast.Inspect(f, func(n ast.Node) bool {
			name := ""
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if s := info.Selections[n]; s != nil {
					name = member(s.Recv(), s.Obj())
				}
			case *ast.Ident:
				if obj := info.Uses[n]; obj != nil && obj.Pkg() != nil && obj.Parent() == obj.Pkg().Scope() {
					name = obj.Pkg().Path() + "." + obj.Name()
				}
			}
			if v, ok := since[name]; ok && version.Compare(v, allowed) > 0 {
				log.Printf("%s: %s came with %s; the file is for %s", fset.Position(n.Pos()), name, v, allowed)
				tooNew++
			}
			return true
		})
	}
	return tooNew, nil
}

// member names a method or field by the type that it is selected from: that it may
// be promoted from an embedded type is nothing that the lists show.
func member(recv types.Type, obj types.Object) string {
	if p, ok := recv.(*types.Pointer); ok {
		recv = p.Elem()
	}
	named, ok := types.Unalias(recv).(*types.Named)
	if !ok || named.Obj().Pkg() == nil {
		return ""
	}
	return named.Obj().Pkg().Path() + "." + named.Obj().Name() + "." + obj.Name()
}
