package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/demo"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
)

// demoProcess is the hidden subcommand that is one process of the demo.
const demoProcess = "demo-process"

func (a *app) demoCommand() *cobra.Command {
	o := demo.Options{Command: demoProcess}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See the race on a throwaway server, without and with the guard",
		Long: `demo starts a throwaway PostgreSQL and lets many processes create the same
schema at the same moment, on a fresh database each round: first by CREATE
SCHEMA IF NOT EXISTS as it is, then under the guard. Half of the processes use
lib/pq, half pgx.

The server comes from the PostgreSQL binaries of this machine, else from Docker.
With --dsn it is the server that --dsn names, where the demo makes databases and
drops them again; DATABASE_URL and the PG* environment are not looked at.

The exit code is 0 only if no process failed under the guard, and some failed
without it: otherwise nothing was proved.`,
		Example: `  bootlock demo
  bootlock demo --rounds 20 --processes 32 --svg race.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Rounds < 1 || o.Processes < 2 {
				return usage("demo takes at least one round and two processes")
			}
			if o.DSN = a.dsn; o.DSN == "" {
				forgetServer()
			}
			return a.demo(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&o.Rounds, "rounds", 10, "rounds without the guard, and as many with it")
	cmd.Flags().IntVar(&o.Processes, "processes", 16, "processes that start together in each round")
	cmd.Flags().StringVar(&o.SVG, "svg", "", "draw one round of each into this file")
	must(cmd.MarkFlagFilename("svg", "svg"))
	return cmd
}

// forgetServer keeps the drivers from the server that the environment names.
func forgetServer() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") {
			_ = os.Unsetenv(name)
		}
	}
}

func (a *app) demo(ctx context.Context, o demo.Options) error {
	ctx, _, stop := signals.Catch(ctx)
	defer stop()
	o.Say = func(text string) { a.log.say(text, text) }
	proved, err := demo.Run(ctx, a.out, o)
	switch {
	case errors.Is(err, demo.ErrNoServer):
		return &exitError{code: exitUnreachable, err: err}
	case err != nil:
		return a.failure(ctx, err)
	case !proved:
		return &exitError{code: exitFailed}
	}
	return nil
}

func (a *app) demoProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use:    demoProcess,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := demo.Process(cmd.Context(), a.in, a.out); err != nil {
				return &exitError{code: exitOwn, err: err}
			}
			return nil
		},
	}
}
