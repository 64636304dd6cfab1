// Command mutants breaks the code on purpose, in one place at a time, and says
// which test notices.
//
// Each mutant is an entry of a list beside this file: fast.toml for those that
// tests without a server find, server.toml for the others. A file is changed in
// the eyes of the compiler only, by its -overlay, so that an interrupted run
// leaves nothing behind.
//
// A mutant that no test notices survives. The exit code is 0 if the survivors are
// those of which the list says that they change nothing that anybody could see,
// and why.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"time"

	"github.com/bootlock/bootlock/test/pgtest"
)

func main() {
	only := flag.String("only", "", "the mutants that this regular expression matches, in file or description")
	sample := flag.Int("sample", 0, "that many of them, at random (0: all)")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the sample") //nolint:gosec // not a secret
	which := flag.String("list", "", "fast, for those that tests without a server notice, or server (empty: both)")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *which, *only, *sample, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, which, only string, sample int, seed uint64) error {
	matches, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	root, err := repository()
	if err != nil {
		return err
	}
	all, err := list(root)
	if err != nil {
		return err
	}
	var chosen []mutant
	for _, m := range all {
		if (which == "" || which == m.list) && matches.MatchString(m.String()) {
			chosen = append(chosen, m)
		}
	}
	if sample > 0 && sample < len(chosen) {
		fmt.Printf("a sample of %d of %d, seed %d\n", sample, len(chosen), seed)
		random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not a secret
		random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		chosen = chosen[:sample]
	}
	if len(chosen) == 0 {
		return errors.New("no mutant is like that")
	}
	for _, m := range chosen {
		if m.list == "server" {
			stop, err := startServer(ctx)
			if err != nil {
				return err
			}
			defer stop()
			break
		}
	}
	return (&bench{root: root}).judge(ctx, chosen)
}

// startServer gives all tests one server, since each would start its own.
func startServer(ctx context.Context) (stop func(), err error) {
	s, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return nil, err
	}
	return func() { _ = s.Stop() }, errors.Join(os.Setenv(pgtest.EnvDSN, s.DSN), os.Unsetenv(pgtest.EnvOrigin))
}
