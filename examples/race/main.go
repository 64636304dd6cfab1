// Command race starts many processes at once on a fresh database, for each of
// the examples, without a guard and with one, and counts who fails.
//
//	go run ./race              the full run, 25 minutes
//	go run ./race -short       what CI runs: few rounds
//	go run ./race -only tern   some libraries
//
// It prints the tables of docs/tools.md, as Markdown, and fails if a guarded process
// failed, or if a control group did not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bootlock/bootlock/test/pgtest"
)

func main() {
	var err error
	if worker.IsWorker() {
		err = worker.Work(os.Stdin, os.Stdout)
	} else {
		err = race(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "race:", err)
		os.Exit(1)
	}
}

func race(args []string) error {
	flags := flag.NewFlagSet("race", flag.ContinueOnError)
	short := flags.Bool("short", false, "few rounds")
	rounds := flags.Int("rounds", 20, "rounds per library, mode and number of processes")
	sizes := flags.String("n", "2,8,32", "numbers of processes")
	only := flags.String("only", "", "regular expression: only libraries whose folder/driver matches")
	modes := flags.String("modes", "", "regular expression: only modes that match")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p := plan{rounds: *rounds, seconds: 20}
	if *short {
		p.short, p.rounds, p.seconds = true, 2, 3
		*sizes = "2,8"
	}
	for _, text := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		p.sizes = append(p.sizes, n)
	}
	var err error
	if p.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if p.modes, err = regexp.Compile(*modes); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return p.run(ctx)
}

func (p plan) run(ctx context.Context) error {
	server, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop() }()
	f, err := worker.Start(slices.Max(p.sizes))
	if err != nil {
		return err
	}
	r, err := p.measure(ctx, server, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Printf("PostgreSQL %s, %s, %d CPUs, N = %s, %v\n\n", r.Server, r.Go, r.CPUs, joined(p.sizes), r.Versions)
	fmt.Printf("%s\n\n%s\n\n", r.failures(false).RenderMarkdown(), r.failures(true).RenderMarkdown())
	if !p.short {
		fmt.Printf("%s\n\n", r.times(slices.Max(p.sizes)).RenderMarkdown())
	}
	fmt.Println(r.texts())
	return r.verdict()
}
