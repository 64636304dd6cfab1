// Command race starts many processes at once on a fresh database, for each of
// the examples, without a guard and with one, and counts the rounds that fail.
//
//	go run ./race              the full run, 25 minutes
//	go run ./race -short       what CI runs: few rounds
//	go run ./race -only tern   some libraries
//
// It prints what docs/tools.md says, as Markdown, and fails if a guarded process
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
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/bootlock/bootlock/test/pgtest"
)

func main() {
	var err error
	if os.Getenv(envWorker) != "" {
		err = work(os.Stdin, os.Stdout)
	} else {
		err = race()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "race:", err)
		os.Exit(1)
	}
}

func race() error {
	short := flag.Bool("short", false, "few rounds")
	only := flag.String("only", "", "regular expression: only libraries whose folder/driver matches")
	flag.Parse()
	p := plan{sizes: []int{2, 8, 32}, rounds: 20, seconds: 20}
	if *short {
		p = plan{sizes: []int{2, 8}, rounds: 2, seconds: 3, short: true}
	}
	var err error
	if p.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	server, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop() }()
	f, err := startFleet(slices.Max(p.sizes))
	if err != nil {
		return err
	}
	fmt.Printf("PostgreSQL %s, %s, %d CPUs\n\n", server.Version, runtime.Version(), runtime.NumCPU())
	fmt.Print("| library | driver | processes | mode | rounds failed | median time until all are ready | errors |\n|---|---|---|---|---|---|---|\n")
	tallies, err := p.measure(ctx, server, f, func(t *tally) { fmt.Println(t) })
	return errors.Join(err, f.close(), verdict(tallies))
}

// version is that of the library in this program, with a space in front.
func (l library) version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == l.module {
			return " " + dep.Version
		}
	}
	return ""
}
