// Command sidebyside gives bootlock and what a user would pick instead the same work,
// and writes docs/benchmarks.md.
//
//	go run ./sidebyside                  everything, some forty minutes; writes results/, ../docs/benchmarks.md and a line of ../README.md
//	go run ./sidebyside -only 'handoff'  some of it again; the document then has these and the results of before
//	go run ./sidebyside -short           a small sample of everything, in two minutes; writes nothing
//	go run ./sidebyside -docs-only       the document from results/
//
// Each experiment is made of parts that take five minutes at most. A part starts a
// server of its own and leaves one file in results/, so that it can be done again alone.
// The part scale is a simulation, of what the part costs has measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"time"

	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/report"
	"github.com/bootlock/bootlock/bench/storm"
)

func main() {
	if storm.Worker.IsWorker() {
		if err := storm.Worker.Work(os.Stdin, os.Stdout); err != nil {
			os.Exit(1) // its parent knows
		}
		return
	}
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "sidebyside:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("sidebyside", flag.ContinueOnError)
	short := flags.Bool("short", false, "measure little of everything, in two minutes, and write nothing")
	only := flags.String("only", "", "regular expression: only the parts that match; -list names them")
	list := flags.Bool("list", false, "list the parts")
	docsOnly := flags.Bool("docs-only", false, "measure nothing; write the document from the results that are there")
	results := flags.String("results", "results", "the folder of the results, one file for each part; a part can be done again alone")
	docs := flags.String("docs", "../docs", "the folder of benchmarks.md and its pictures")
	readme := flags.String("readme", "../README.md", "the file that has a line of the results")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *short {
		*results, err = os.MkdirTemp("", "bootlock-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(*results) //nolint:errcheck // a folder for temporary files
	}
	for _, p := range parts(*short, *results) {
		switch {
		case *list:
			fmt.Println(p.name)
		case *docsOnly || !chosen.MatchString(p.name):
		default:
			if err := p.measure(ctx, *results); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	if *list {
		return nil
	}
	r, err := report.Load(*results)
	if err != nil {
		return err
	}
	if *short {
		fmt.Print(r.Markdown())
		return nil
	}
	return r.Write(*docs, *readme)
}

// part is what is measured at one go.
type part struct {
	name string
	do   func(ctx context.Context, l *lab.Lab) (any, error)
}

func (p part) measure(ctx context.Context, results string) error {
	began := time.Now()
	l, err := lab.Start(ctx)
	if err != nil {
		return err
	}
	defer l.Stop()
	result, err := p.do(ctx, l)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%-16s %5.1f s\n", p.name, time.Since(began).Seconds())
	return report.Store(results, p.name, l.Machine(), result)
}
