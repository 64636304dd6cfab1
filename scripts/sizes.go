//go:build ignore

// Sizes prints a table of the library's packages: lines of source and of tests beside it,
// exported names, and how long functions are; and below it the lines of all that tests
// the library, fakes and helpers included, for each line of source.
//
//	go run scripts/sizes.go
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

type size struct {
	source, test, exported int
	functions              []int // lines of each, in source
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("sizes: ")
	library := size{}
	fmt.Println("| package | source lines | test lines | exported names | function length, median / 90 % |")
	fmt.Println("|---|---|---|---|---|")
	for _, dir := range []string{
		"advisorylock", "advisorylock/locktrace", "schemaguard", "schemaguard/schemaguardtest",
		"internal/bounded", "internal/fence", "internal/mocked", "internal/printable", "internal/room", "internal/secret",
		"internal/sqlstate", "internal/step",
	} {
		s := measure(dir, false)
		s.row("`" + dir + "`")
		library.source, library.test = library.source+s.source, library.test+s.test
		library.exported += s.exported
		library.functions = append(library.functions, s.functions...)
	}
	library.row("the library")
	fakes, top, suite := measure("internal/recdriver", true), measure(".", false), measure("test", true)
	beside := fakes.source + fakes.test + top.test
	elsewhere := suite.source + suite.test
	fmt.Printf("\nWith the %d lines of the fake driver and at the top, and the %d in `test`, that is %.1f lines of tests for each of source.\n",
		beside, elsewhere, float64(library.test+beside+elsewhere)/float64(library.source))
}

func (s size) row(name string) {
	slices.Sort(s.functions)
	n := len(s.functions)
	fmt.Printf("| %s | %d | %d | %d | %d / %d |\n", name, s.source, s.test, s.exported, s.functions[n/2], s.functions[n*9/10])
}

// measure looks at the Go files in dir, and below it if deep.
func measure(dir string, deep bool) (s size) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != dir && (!deep || e.Name() == "testdata"):
			return filepath.SkipDir
		case e.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lines := bytes.Count(text, []byte("\n"))
		if strings.HasSuffix(path, "_test.go") {
			s.test += lines
			return nil
		}
		s.source += lines
		return s.declarations(path, text)
	})
	if err != nil {
		log.Fatal(err)
	}
	return s
}

// declarations counts exported names at the top level, and the lines of functions.
func (s *size) declarations(path string, text []byte) error {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, text, 0)
	if err != nil {
		return err
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			s.functions = append(s.functions, files.Position(d.End()).Line-files.Position(d.Pos()).Line+1)
			if d.Recv == nil {
				s.count(d.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					s.count(spec.Name)
				case *ast.ValueSpec:
					s.count(spec.Names...)
				}
			}
		}
	}
	return nil
}

func (s *size) count(names ...*ast.Ident) {
	for _, n := range names {
		if n.IsExported() {
			s.exported++
		}
	}
}
