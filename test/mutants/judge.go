package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// How long the tests of a mutant may take, which it may make hang: those that need
	// no server, and the others.
	limitFast, limit = 30 * time.Second, 90 * time.Second

	// limitGreen is for all tests of a package that mutants name.
	limitGreen = 10 * time.Minute
)

// bench is where mutants are tried.
type bench struct{ root string }

// judge tries the mutants one after the other.
func (b *bench) judge(ctx context.Context, mutants []mutant) error {
	if err := b.green(ctx, mutants); err != nil {
		return err
	}
	var survivors, wrong []string
	for i, m := range mutants {
		limit := limit
		if m.list == "fast" {
			limit = limitFast
		}
		found, err := b.try(ctx, m, limit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Printf("%3d/%d  %s\n", i+1, len(mutants), m)
		switch {
		case err != nil:
			fmt.Printf("         ERROR: %v\n", err)
			wrong = append(wrong, fmt.Sprintf("%v: %v", m, err))
		case found != "" && m.Survives == "":
			fmt.Printf("         %s\n", found)
		case found == "" && m.Survives != "":
			fmt.Printf("         survives: %s\n", m.Survives)
			survivors = append(survivors, m.String())
		case found == "":
			fmt.Printf("         SURVIVES %s in %s\n", m.Run, m.In)
			wrong = append(wrong, m.String()+": survives")
		default:
			fmt.Printf("         found by %s; it should survive\n", found)
			wrong = append(wrong, m.String()+": does not survive")
		}
	}
	fmt.Printf("%d of %d mutants found by tests, %d survive for a reason\n", len(mutants)-len(survivors)-len(wrong), len(mutants), len(survivors))
	if len(wrong) > 0 {
		return fmt.Errorf("not as the list says:\n  %s", strings.Join(wrong, "\n  "))
	}
	return nil
}

// green runs the tests on the code as it is: one that fails there would say
// nothing about a mutant.
func (b *bench) green(ctx context.Context, mutants []mutant) error {
	type where struct{ dir, parent string } // parent is the test whose subtests are chosen
	tests := map[where][]string{}
	for _, m := range mutants {
		parent, name := path.Split(m.Run)
		at := where{m.In, parent}
		tests[at] = append(tests[at], name)
	}
	for at, names := range tests {
		slices.Sort(names)
		run := at.parent + "(" + strings.Join(slices.Compact(names), "|") + ")"
		red, err := b.test(ctx, limitGreen, at.dir, run, "")
		if err != nil {
			return err
		}
		if red != "" {
			return fmt.Errorf("%s in %s fails without any mutant", red, at.dir)
		}
	}
	return nil
}

// try returns the test that finds a mutant, or nothing.
func (b *bench) try(ctx context.Context, m mutant, limit time.Duration) (string, error) {
	text, err := m.apply(b.root)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system's temporary folder
	mutated, overlay := filepath.Join(dir, filepath.Base(m.File)), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(b.root, m.File): mutated}})
	if err := errors.Join(err, os.WriteFile(mutated, []byte(text), 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		return "", err
	}
	return b.test(ctx, limit, m.In, m.Run, overlay)
}

// test returns the test that turns red, or nothing. What the tests compile is compiled
// with the overlay, too.
func (b *bench) test(ctx context.Context, limit time.Duration, dir, run, overlay string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-C", filepath.Join(b.root, dir), "-count=1", "-vet=off", "-failfast",
		"-timeout="+limit.String(), "-run="+run, ".")
	cmd.Env = os.Environ()
	if overlay != "" {
		cmd.Env = append(cmd.Env, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch out := string(output); {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil && strings.Contains(out, "[no tests to run]"):
		return "", fmt.Errorf("no test in %s is named %s", dir, run)
	case err == nil:
		return "", nil
	case !errors.As(err, &exit):
		return "", err
	case red(out) == "":
		return "", fmt.Errorf("its tests do not run:\n%s", out)
	default:
		return red(out) + seeded.FindString(out), nil
	}
}

var (
	failed   = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	hung     = regexp.MustCompile(`panic: test timed out after .*\n\s+running tests:\n\s+(\S+)`)
	panicked = regexp.MustCompile(`(?m)^(?:panic|fatal error): (.*)`)
	seeded   = regexp.MustCompile(` -seed \d+`) // of the simulation
)

// red names the test that turned red: the innermost of the first that failed.
func red(out string) string {
	if match := hung.FindStringSubmatch(out); match != nil {
		return match[1] + " (hangs)"
	}
	name := ""
	for _, match := range failed.FindAllStringSubmatch(out, -1) {
		if !strings.HasPrefix(match[1], name) {
			break
		}
		name = match[1]
	}
	if match := panicked.FindStringSubmatch(out); name == "" && match != nil {
		return "a panic: " + match[1]
	}
	return name
}
