// Command bench measures how fleets of processes start, and what a lock costs,
// with bootlock, with locks written by hand and with goose's lockers. In each row
// of a table the contestants take turns in the same run, so that whatever else
// the machine does slows all of them alike: look at the ratios.
//
//	go run ./bench                                       # everything, as Markdown: an hour
//	go run ./bench -only 'fleets: direct, 32' -rounds 9  # some rows
//	go run ./bench -only waiting -for 60s
//
// A process is a goroutine with a pool of its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"time"
)

func main() {
	only := flag.String("only", "", "measure the rows whose `regexp` matches \"table: row\"")
	rounds := flag.Int("rounds", 5, "how often each contestant has its turn; long rows have 3 at most")
	long := flag.Duration("for", 10*time.Second, "how long a turn lasts in the tables mutex, handoff and waiting")
	driver := flag.String("driver", "pgx", "pgx or postgres (lib/pq), where a table does not compare them")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *only, *rounds, *long, *driver); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, rounds int, long time.Duration, driver string) error {
	matches, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	l, err := openLab(ctx, driver)
	if err != nil {
		return err
	}
	defer l.close()
	fmt.Println(l.about())
	for _, t := range tables(l, long) {
		if err := t.measure(ctx, os.Stdout, matches, rounds); err != nil {
			return err
		}
	}
	return nil
}

func tables(l *lab, long time.Duration) []table {
	return []table{
		fleets(l), starts(l), services(l), goose(l),
		mutexOfTransactions(l, long), mutexOfLeases(l, long),
		handoff(l, long), waiting(l, long), cost(l),
	}
}
