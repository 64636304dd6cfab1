// Command bootlock is the guard for programs that are not written in Go: flock(1) for
// PostgreSQL, and the tool to find out what is stuck.
//
//	bootlock run    --lock NAME -- COMMAND…    hold a lock while COMMAND runs
//	bootlock ensure --schema NAME -- COMMAND…  create a schema, then run COMMAND
//	bootlock wait   --until SQL                wait until a query says yes
//	bootlock locks                             who holds, who waits, how to end it
//	bootlock end    --lock NAME                end the holder
//	bootlock key NAME                          the key, and the SQL that computes it
//	bootlock demo                              see the race, without and with the guard
//
// See bootlock help for the rest, and for the exit codes.
package main

import (
	"cmp"
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/child"
)

func main() {
	// A reader of stderr that is gone must not cost the work: a write fails then, and
	// no signal ends the process. COMMAND has its default again.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// app is one run of the command: its streams, and the flags that all
// subcommands have.
type app struct {
	in       io.Reader
	out, err io.Writer

	dsn           string
	waitForServer time.Duration
	log           *logger
}

func run(args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut, log: &logger{w: &patient{errOut, make(chan struct{}, 1)}}}
	root := a.rootCommand()
	a.log.format = logEarly(args)
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
		Long: `bootlock lets programs start at the same time on one PostgreSQL database: it
holds an advisory lock while a command runs, and creates schemas safely.

` + connectionHelp + `

Every flag can also be given by an environment variable, such as BOOTLOCK_TIMEOUT
for --timeout and BOOTLOCK_WAIT_FOR_SERVER for --wait-for-server; the command line
wins. Of those, COMMAND inherits --dsn, --wait-for-server, --log and -q. A duration
without a unit is in seconds. bootlock help logging describes the messages.

` + exitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       buildVersion(),
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if err := fromEnvironment(cmd, args); err != nil {
				return err
			}
			return a.log.check()
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.dsn, "dsn", "", "the database, as URL or key=value (default: DATABASE_URL, else the PG* environment)")
	duration(flags, &a.waitForServer, "wait-for-server", "how long to wait for a server, or its database, that is not there yet")
	flags.BoolVarP(&a.log.quiet, "quiet", "q", false, "no messages on stderr but errors")
	flags.StringVar(&a.log.format, "log", "text", "how messages on stderr look: text or json")
	must(root.RegisterFlagCompletionFunc("log", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)))

	root.AddCommand(
		a.runCommand(),
		a.ensureCommand(),
		a.waitCommand(),
		a.locksCommand(),
		a.endCommand(),
		a.doctorCommand(),
		a.keyCommand(),
		a.versionCommand(),
		a.demoCommand(),
		a.demoProcessCommand(),
		a.watchdogCommand(),
		&cobra.Command{Use: "logging", Short: "The messages of bootlock, and the fields of --log json", Long: logHelp},
	)
	for _, command := range more {
		root.AddCommand(command(a))
	}
	return root
}

// more are the subcommands of some builds only.
var more []func(a *app) *cobra.Command

// logEarly is what --log says, for messages about a command line that cannot be
// read.
func logEarly(args []string) string {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags, flags.Usage = true, func() {}
	format := flags.String("log", os.Getenv("BOOTLOCK_LOG"), "")
	_ = flags.Parse(args)
	return cmp.Or(*format, "text")
}

func (a *app) watchdogCommand() *cobra.Command {
	return &cobra.Command{
		Use:               child.WatchdogCommand,
		Hidden:            true,
		Args:              cobra.ExactArgs(1),
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(_ *cobra.Command, args []string) error {
			if err := child.Watchdog(args[0], a.in); err != nil {
				return &exitError{code: exitOwn, err: err}
			}
			return nil
		},
	}
}

// must panics on an error that only a programmer can cause.
func must(err error) {
	if err != nil {
		panic("bootlock: " + err.Error())
	}
}
