// Command bootlock is the guard of this module for everything that is not Go:
// flock(1) for PostgreSQL, and the place to look when something is stuck.
//
//	bootlock run    --lock NAME -- COMMAND…    hold a lock while COMMAND runs
//	bootlock ensure --schema NAME -- COMMAND…  create a schema, then run COMMAND
//	bootlock locks                             who holds, who waits, how to end it
//	bootlock key NAME                          the key, and the SQL that computes it
//	bootlock demo                              see the race, without and with the guard
//
// See bootlock help for the rest, and for the exit codes.
package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// app is one run of the command: its streams, and the flags that all
// subcommands have.
type app struct {
	in       io.Reader
	out, err io.Writer

	dsn           string
	waitForServer time.Duration
	quiet         bool
	logFormat     string

	log *logger
}

func run(args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut, log: &logger{w: errOut}}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(context.Background())
	return a.exit(cmd.CommandPath(), err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "bootlock",
		Short: "Locks on PostgreSQL for programs that start at the same time",
		Long: `bootlock keeps programs that start at the same time from getting in each
other's way on PostgreSQL: it holds an advisory lock while a command runs, and
creates schemas without losing the race for them.

` + connectionHelp + `

` + exitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return a.log.configure(a.quiet, a.logFormat)
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.dsn, "dsn", "", "the database, as URL or key=value (default: DATABASE_URL, else the PG* environment)")
	flags.DurationVar(&a.waitForServer, "wait-for-server", 0, "how long to wait for a server that is not up yet")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "no messages on stderr but errors")
	flags.StringVar(&a.logFormat, "log", "text", "how messages on stderr look: text or json")
	must(root.RegisterFlagCompletionFunc("log", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)))

	root.AddCommand(
		a.runCommand(),
		a.ensureCommand(),
		a.locksCommand(),
		a.doctorCommand(),
		a.keyCommand(),
		a.versionCommand(),
		a.demoCommand(),
		a.demoProcessCommand(),
	)
	return root
}

// must panics on an error that only a programmer can cause.
func must(err error) {
	if err != nil {
		panic("bootlock: " + err.Error())
	}
}
