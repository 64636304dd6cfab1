//go:build unix

// Command tools races migration tools that are not Go, N processes on a fresh
// database, as they are and under bootlock run, and prints the section of
// docs/tools.md about them.
//
//	go run ./tools            # in cmd/bootlock; ten minutes on two cores
//	go run ./tools -short     # one round each
//	go run ./tools -only knex
//
// It needs npm, and of the other tools those that are installed; which ones were
// not is in the table.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
)

const (
	// patience bounds a process, so that a tool that hangs is seen to.
	patience = 90 * time.Second

	// gateTime opens the gate although not all are there: a tool may have failed.
	gateTime = 20 * time.Second
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("tools: ")
	short := flag.Bool("short", false, "one round each")
	only := flag.String("only", "", "a regular expression: race these tools only")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	chosen, err := regexp.Compile(*only)
	if err == nil {
		err = race(ctx, chosen, *short)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func race(ctx context.Context, chosen *regexp.Regexp, short bool) error {
	server, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return err
	}
	defer server.Stop() //nolint:errcheck // its data is thrown away
	scratch, err := os.MkdirTemp("", "bootlock-tools-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // only rubbish is left
	r := &racer{server: server, folder: filepath.Join(scratch, "recipes"), bootlock: filepath.Join(scratch, "bootlock"), sizes: []size{{2, 4}, {8, 2}}}
	if short {
		r.sizes = []size{{2, 1}, {8, 1}}
	}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	var results []*result
	for _, t := range tools {
		if chosen.MatchString(t.name) {
			res, err := r.tool(ctx, t)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			results = append(results, res)
		}
	}
	r.print(results)
	return nil
}

type racer struct {
	server   *pgtest.Server
	folder   string // a copy of testdata/recipes
	bootlock string
	sizes    []size
}

type size struct{ processes, rounds int }

func (r *racer) prepare(ctx context.Context) error {
	if err := os.CopyFS(r.folder, os.DirFS("testdata/recipes")); err != nil {
		return err
	}
	for dir, command := range map[string]string{".": "go build -o " + r.bootlock + " .", filepath.Join(r.folder, "node"): "npm install --no-audit --no-fund"} {
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	return nil
}

type result struct {
	tool
	missing        error // why it was not run
	version        string
	alone, guarded []outcome // one for each size
}

type outcome struct {
	processes, failed int
	bad               int    // rounds that left something broken behind
	why               string // the first of them failed
}

func (o *outcome) because(why string) { o.why = cmp.Or(o.why, why) }

func (r *racer) tool(ctx context.Context, t tool) (*result, error) {
	res := &result{tool: t}
	cmd := exec.CommandContext(ctx, "sh", "-c", t.ask)
	cmd.Dir = filepath.Join(r.folder, t.folder)
	version, err := cmd.Output()
	if res.missing = err; err != nil {
		return res, nil
	}
	res.version = strings.TrimSpace(string(version))
	for _, s := range r.sizes {
		var alone, guarded outcome
		for range s.rounds {
			if err := r.round(ctx, t.command, t, s.processes, &alone); err != nil {
				return nil, err
			}
			if err := r.round(ctx, r.bootlock+" run -q --lock "+t.name+" -- "+t.command, t, s.processes, &guarded); err != nil {
				return nil, err
			}
		}
		res.alone, res.guarded = append(res.alone, alone), append(res.guarded, guarded)
		log.Printf("%s %s: %d of %d fail alone, %d under the guard\n%s", t.name, res.version, alone.failed, alone.processes, guarded.failed, cmp.Or(guarded.why, alone.why))
	}
	return res, nil
}

// round starts the processes on a fresh database, and looks at what they leave:
// the next start, alone, must succeed and find all migrations there, once.
func (r *racer) round(ctx context.Context, command string, t tool, n int, o *outcome) error {
	dsn, drop, err := r.server.CreateDatabase(ctx, "tools")
	if err != nil {
		return err
	}
	defer drop()
	gate, err := r.gate(n)
	if err != nil {
		return err
	}
	defer gate.Close()
	// SQLAlchemy does not know postgres://, everybody knows this.
	url := strings.Replace(pgtest.WithAddr(dsn, gate.Addr), "postgres://", "postgresql://", 1)
	run := func() string { return r.run(ctx, command, t.folder, url) }
	why := make(chan string, n)
	for range n {
		go func() { why <- run() }()
	}
	o.processes += n
	for range n {
		if reason := <-why; reason != "" {
			o.failed++
			o.because(reason)
		}
	}
	if reason := cmp.Or(run(), check(ctx, dsn, t.check)); reason != "" {
		o.bad++
		o.because("later: " + reason)
	}
	return ctx.Err()
}

// gate stands in front of the server, and lets the first n connections through
// together: the time that programs take to start differs by more than the time in
// which they can lose the race.
func (r *racer) gate(n int) (*relay.Relay, error) {
	server, err := pgtest.Addr(r.server.DSN)
	if err != nil {
		return nil, err
	}
	open := make(chan struct{})
	letThrough := sync.OnceFunc(func() { close(open) })
	time.AfterFunc(gateTime, letThrough)
	var came atomic.Int32
	return relay.Listen("127.0.0.1:0", server, func() relay.Tap {
		if came.Add(1) == int32(n) { //nolint:gosec // a few
			letThrough()
		}
		return func([]byte, bool) { <-open }
	})
}

// run runs a command and all that it starts, for as long as patience lasts, and
// returns why it failed, if it did.
func (r *racer) run(ctx context.Context, command, folder, url string) (why string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = filepath.Join(r.folder, folder)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	said, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return ""
	case ctx.Err() != nil:
		return fmt.Sprintf("given up after %v", patience)
	}
	return fmt.Sprintf("%v: %s", err, said)
}

func check(ctx context.Context, dsn, query string) (why string) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err.Error()
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing was changed
	var ok bool
	if err := conn.QueryRow(ctx, query).Scan(&ok); err != nil || !ok {
		return fmt.Sprintf("after the next start, this is not true: %s (%v)", query, err)
	}
	return ""
}

// print prints the section of docs/tools.md.
func (r *racer) print(results []*result) {
	var how, heads []string
	rounds := 0
	for _, s := range r.sizes {
		how = append(how, fmt.Sprintf("of %d (%d in each of %d rounds)", s.processes*s.rounds, s.processes, s.rounds))
		heads = append(heads, fmt.Sprintf("of %d", s.processes*s.rounds))
		rounds += s.rounds
	}
	var rows strings.Builder
	guarded, failed, lost, raced := 0, 0, 0, 0
	for _, res := range results {
		if res.missing != nil {
			fmt.Fprintf(&rows, "| %s | not run: %v | | | |\n", res.name, res.missing)
			continue
		}
		var alone []string
		sum, broken := 0, 0
		for i, o := range res.alone {
			alone = append(alone, fmt.Sprint(o.failed))
			sum, broken = sum+o.failed, broken+o.bad
			guarded, failed = guarded+res.guarded[i].processes, failed+res.guarded[i].failed+res.guarded[i].bad
		}
		raced++
		lost += min(sum, 1)
		fmt.Fprintf(&rows, "| %s | %s | %s | %s | %d of %d |\n", res.name, res.version, res.lock, strings.Join(alone, " · "), broken, rounds)
	}
	fmt.Printf(`## Tools that are not Go

Processes that failed, %s. A round counts as broken if the next start, by a single process, fails, or finds something missing or there twice. The guard is `+"`bootlock run --lock NAME -- TOOL`"+`; under it %d of %d processes failed or left something broken. Alone, %d of %d tools lose the race. PostgreSQL %s.

| tool | version | its own lock | alone: failed %s | rounds left broken |
|---|---|---|---|---|
%s`, strings.Join(how, " and "), failed, guarded, lost, raced, r.server.Version, strings.Join(heads, " · "), rows.String())
}
