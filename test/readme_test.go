package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestREADME compiles every Go block of the README, as a package of this
// module that exists only in the build's overlay.
func TestREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) == 0 {
		t.Fatal("README.md has no Go code")
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	args := []string{"build", "-overlay=" + filepath.Join(dir, "overlay.json")}
	for i, block := range blocks {
		code := filepath.Join(dir, fmt.Sprintf("block%d.go", i))
		// Not main: a block is a part of a program, without a func main.
		source := regexp.MustCompile(`(?m)^package main$`).ReplaceAll(block[1], []byte("package block"))
		if err := os.WriteFile(code, source, 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, "readme", fmt.Sprint(i), "block.go")] = code
		args = append(args, fmt.Sprintf("./readme/%d", i))
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Errorf("the README's code does not compile: %v\n%s", err, out)
	}
}
