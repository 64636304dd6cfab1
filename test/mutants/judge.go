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

// verdict is what the tests said.
type verdict struct {
	test string        // that turned red; empty if none did
	seed string        // of the schedule that the simulation failed with
	took time.Duration // the tests; to compile them is not in it
}

func (v verdict) String() string {
	how := v.test
	if v.seed != "" {
		how += ", seed " + v.seed
	}
	return fmt.Sprintf("%s, after %v", how, v.took.Round(10*time.Millisecond))
}

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
		v, err := b.try(ctx, m, limit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Printf("%3d/%d  %s\n", i+1, len(mutants), m)
		switch {
		case err != nil:
			fmt.Printf("         ERROR: %v\n", err)
			wrong = append(wrong, fmt.Sprintf("%v: %v", m, err))
		case v.test != "" && m.Survives == "":
			fmt.Printf("         %v\n", v)
		case v.test == "" && m.Survives != "":
			fmt.Printf("         survives: %s\n", m.Survives)
			survivors = append(survivors, m.String())
		case v.test == "":
			fmt.Printf("         SURVIVES %s in %s\n", m.Run, m.In)
			wrong = append(wrong, m.String()+": survives")
		default:
			fmt.Printf("         found by %v; it should survive\n", v)
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
		v, err := b.test(ctx, limitGreen, at.dir, run, "")
		if err != nil {
			return err
		}
		if v.test != "" {
			return fmt.Errorf("%s in %s fails without any mutant", v.test, at.dir)
		}
	}
	return nil
}

// try runs tests on a mutant.
func (b *bench) try(ctx context.Context, m mutant, limit time.Duration) (verdict, error) {
	text, err := m.apply(b.root)
	if err != nil {
		return verdict{}, err
	}
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return verdict{}, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system's temporary folder
	mutated, overlay := filepath.Join(dir, filepath.Base(m.File)), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(b.root, m.File): mutated}})
	if err := errors.Join(err, os.WriteFile(mutated, []byte(text), 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		return verdict{}, err
	}
	return b.test(ctx, limit, m.In, m.Run, overlay)
}

// test runs tests, with an overlay that what they compile is compiled with, too.
func (b *bench) test(ctx context.Context, limit time.Duration, dir, run, overlay string) (verdict, error) {
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
		return verdict{}, ctx.Err()
	case err == nil && strings.Contains(out, "[no tests to run]"):
		return verdict{}, fmt.Errorf("no test in %s is named %s", dir, run)
	case err == nil:
		return verdict{took: took(out)}, nil
	case !errors.As(err, &exit):
		return verdict{}, err
	case red(out) == "":
		return verdict{}, fmt.Errorf("its tests do not run:\n%s", out)
	default:
		v := verdict{test: red(out), took: took(out)}
		if match := seeded.FindStringSubmatch(out); match != nil {
			v.seed = match[1]
		}
		return v, nil
	}
}

var (
	failed   = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	hung     = regexp.MustCompile(`panic: test timed out after .*\n\s+running tests:\n\s+(\S+)`)
	panicked = regexp.MustCompile(`(?m)^(?:panic|fatal error): (.*)`)
	seeded   = regexp.MustCompile(`-seed (\d+)`)
	duration = regexp.MustCompile(`(?m)^(?:ok|FAIL)\s+\S+\s+([0-9.]+s)`)
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

func took(out string) time.Duration {
	match := duration.FindStringSubmatch(out)
	if match == nil {
		return 0
	}
	d, _ := time.ParseDuration(match[1])
	return d
}
