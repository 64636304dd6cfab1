// Command tools races migration tools that are not Go, N processes on a fresh
// database, as they are and under bootlock run, and prints a table of it.
//
//	go run ./tools            # in cmd/bootlock; ten minutes on two cores
//	go run ./tools -short     # one round each
//	go run ./tools -only knex
//
// It needs npm, and of the other tools those that are installed; which ones were
// not is in the table.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
)

// patience bounds a process, so that a tool that hangs is seen to.
const patience = 90 * time.Second

func main() {
	log.SetFlags(0)
	log.SetPrefix("tools: ")
	short := flag.Bool("short", false, "one round each")
	only := flag.String("only", "", "a regular expression: race these tools only")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	chosen, err := regexp.Compile(*only)
	if err != nil {
		log.Fatal(err)
	}
	text, err := race(ctx, chosen, *short)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(text)
}

func race(ctx context.Context, chosen *regexp.Regexp, short bool) (text string, err error) {
	server, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return "", err
	}
	defer server.Stop() //nolint:errcheck // its data is thrown away
	scratch, err := os.MkdirTemp("", "bootlock-tools-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // only rubbish is left
	r := &racer{server: server, folder: filepath.Join(scratch, "recipes"), bootlock: filepath.Join(scratch, "bootlock"), sizes: []size{{2, 4}, {8, 2}}, manyRounds: 3}
	if short {
		r.sizes, r.manyRounds = []size{{2, 1}, {8, 1}}, 1
	}
	if err := r.prepare(ctx); err != nil {
		return "", err
	}
	var results []*result
	for _, t := range tools {
		if !chosen.MatchString(t.name) {
			continue
		}
		res, err := r.tool(ctx, t)
		if err != nil {
			return "", fmt.Errorf("%s: %w", t.name, err)
		}
		results = append(results, res)
	}
	return table(server.Version, r, results), nil
}

// racer runs rounds.
type racer struct {
	server     *pgtest.Server
	folder     string // a copy of testdata/recipes
	bootlock   string
	sizes      []size
	manyRounds int // of many processes
}

// size is how many processes start together, and how often.
type size struct{ processes, rounds int }

// many is how many start together for the comparison with --unless.
const many = 16

func (r *racer) prepare(ctx context.Context) error {
	if err := os.CopyFS(r.folder, os.DirFS("testdata/recipes")); err != nil {
		return err
	}
	for _, c := range []struct {
		dir  string
		args []string
	}{
		{".", []string{"go", "build", "-o", r.bootlock, "."}},
		{filepath.Join(r.folder, "node"), []string{"npm", "install", "--no-audit", "--no-fund"}},
	} {
		cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
		cmd.Dir, cmd.Stderr = c.dir, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(c.args, " "), err)
		}
	}
	return nil
}

// result is what became of a tool.
type result struct {
	tool
	missing error // why it was not run
	version string
	alone   []outcome // without a guard, one for each size
	guarded []outcome
	plain   outcome // many processes under bootlock run
	once    outcome // the same with --unless
	errors  map[string]int
}

// outcome sums up rounds.
type outcome struct {
	processes, failed int
	rounds, bad       int // bad: it left something broken behind
	times             []time.Duration
}

func (r *racer) tool(ctx context.Context, t tool) (*result, error) {
	res := &result{tool: t, errors: map[string]int{}}
	if _, res.missing = exec.LookPath(t.needs); res.missing != nil {
		return res, nil
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", t.ask)
	cmd.Dir = filepath.Join(r.folder, t.folder)
	version, err := cmd.Output()
	if err != nil {
		res.missing = err
		return res, nil
	}
	res.version = strings.TrimSpace(string(version))
	guard := shellWords(r.bootlock, "run", "-q", "--lock", t.name, "--")
	for _, s := range r.sizes {
		alone, err := r.rounds(ctx, t, s, "", res.errors)
		if err != nil {
			return nil, err
		}
		guarded, err := r.rounds(ctx, t, s, guard, map[string]int{})
		if err != nil {
			return nil, err
		}
		res.alone, res.guarded = append(res.alone, alone), append(res.guarded, guarded)
		log.Printf("%s %s, %d processes: %d of %d fail alone, %d of %d under the guard", t.name, res.version, s.processes, alone.failed, alone.processes, guarded.failed, guarded.processes)
	}
	if t.unless == "" {
		return res, nil
	}
	s := size{many, r.manyRounds}
	if res.plain, err = r.rounds(ctx, t, s, guard, map[string]int{}); err != nil {
		return nil, err
	}
	once := shellWords(r.bootlock, "run", "-q", "--lock", t.name, "--unless", t.unless, "--")
	if res.once, err = r.rounds(ctx, t, s, once, map[string]int{}); err != nil {
		return nil, err
	}
	log.Printf("%s, %d processes: %v under the lock, %v with --unless", t.name, many, res.plain.median(), res.once.median())
	return res, nil
}

func (r *racer) rounds(ctx context.Context, t tool, s size, guard string, errors map[string]int) (o outcome, err error) {
	for range s.rounds {
		if err := r.round(ctx, t, s.processes, guard, &o, errors); err != nil {
			return o, err
		}
	}
	return o, nil
}

// round starts the processes on a fresh database, and looks at what they leave:
// the next start, alone, must succeed and find all migrations there, once.
func (r *racer) round(ctx context.Context, t tool, n int, guard string, o *outcome, errors map[string]int) error {
	dsn, drop, err := r.server.CreateDatabase(ctx, "tools")
	if err != nil {
		return err
	}
	defer drop()
	u, err := url.Parse(dsn)
	if err != nil {
		return err
	}
	u.Scheme = "postgresql" // SQLAlchemy does not know postgres://, everybody knows this
	g, err := newGate(u.Host, n)
	if err != nil {
		return err
	}
	defer g.close()
	u.Host = g.listener.Addr().String()
	command := func() *exec.Cmd {
		cmd := exec.CommandContext(ctx, "sh", "-c", guard+" "+t.command)
		cmd.Dir = filepath.Join(r.folder, t.folder)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+u.String())
		return cmd
	}
	type end struct {
		said string
		err  error
	}
	ends := make(chan end, n)
	for range n {
		go func() {
			said, err := run(command())
			ends <- end{said, err}
		}()
	}
	<-g.open
	begun := time.Now()
	failed := 0
	for range n {
		e := <-ends
		if e.err != nil {
			failed++
			errors[reason(e.said, e.err)]++
		}
	}
	took := time.Since(begun)
	if err := ctx.Err(); err != nil {
		return err
	}
	if failed == 0 {
		o.times = append(o.times, took)
	}
	o.processes, o.failed, o.rounds = o.processes+n, o.failed+failed, o.rounds+1
	if said, err := run(command()); err != nil {
		errors["later: "+reason(said, err)]++
		o.bad++
	} else if err := check(ctx, dsn, t.check); err != nil {
		errors[err.Error()]++
		o.bad++
	}
	return nil
}

// run runs a command and all that it starts, for as long as patience lasts.
func run(cmd *exec.Cmd) (said string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, &b
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { killGroup(cmd) })
	defer stop()
	err = cmd.Wait()
	if ctx.Err() != nil {
		err = fmt.Errorf("given up after %v", patience)
	}
	return b.String(), err
}

var (
	errorLine = regexp.MustCompile(`(?i)(duplicate key|already exists|already locked|concurrent|deadlock|error|exception|lock)`)
	colours   = regexp.MustCompile("\x1b\\[[0-9;]*m")
	numbers   = regexp.MustCompile(`\b[0-9a-f]*\d{4,}[0-9a-f]*\b`)
	position  = regexp.MustCompile(`^/\S+:\d+$`) // where in a source file Node threw
)

// reason is the line of what a process said that tells most about why it failed.
func reason(said string, err error) string {
	best, rank := err.Error(), 100
	for line := range strings.Lines(colours.ReplaceAllString(said, "")) {
		line = strings.TrimSpace(line)
		found := errorLine.FindString(line)
		if found == "" || len(line) > 300 || position.MatchString(line) {
			continue
		}
		order := slices.Index([]string{"duplicate key", "already exists", "already locked", "concurrent", "deadlock"}, strings.ToLower(found))
		if order < 0 {
			order = 50
		}
		if order < rank {
			best, rank = line, order
		}
	}
	return numbers.ReplaceAllString(best, "…")
}
