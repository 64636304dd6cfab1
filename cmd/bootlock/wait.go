package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/child"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
	"github.com/bootlock/bootlock/schemaguard"
)

type waiter struct {
	schema, until string
	timeout       time.Duration
}

func (a *app) waitCommand() *cobra.Command {
	w := &waiter{}
	cmd := &cobra.Command{
		Use:   "wait {--schema NAME | --until SQL} [flags] [--] [COMMAND [ARGUMENT…]]",
		Short: "Wait until a schema is there, or a query says yes, then run COMMAND",
		Long: `wait is for processes that must not migrate: it returns when the schema is there
and the query of --until returns true, or rows that are no boolean. COMMAND, if
there is one, then takes the place of bootlock (on Windows it is a child).

It takes no lock, changes nothing, needs no right but CONNECT, and works on a
standby. Where a table, a schema or a function is missing the answer is no. A
server that goes away while wait asks is asked again.

Exit codes: that of COMMAND, or 0; 64 for wrong usage, 69 if the server could not
be reached within --wait-for-server, 75 if --timeout has passed, 125 for an error
in the query, 126 and 127 if COMMAND cannot be run or was not found.`,
		Example: `  bootlock wait --schema app --timeout 5m
  bootlock wait --until "SELECT max(version) >= 42 FROM app.migrations" -- node app.js`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			return a.wait(cmd.Context(), w, args)
		},
	}
	cmd.Flags().StringVar(&w.schema, "schema", "", "the schema's name, as it is, without quotes")
	cmd.Flags().StringVar(&w.until, "until", "", "a query; true, or rows that are no boolean, end the wait")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "how long to wait (default: for ever)")
	cmd.Flags().SetInterspersed(false)
	cmd.MarkFlagsOneRequired("schema", "until")
	return cmd
}

func (w *waiter) check() error {
	if w.timeout < 0 {
		return usage("--timeout cannot be negative")
	}
	if w.schema == "" {
		return nil
	}
	return checkSchema(w.schema)
}

func (a *app) wait(parent context.Context, w *waiter, args []string) error {
	ctx, caught, stop := signals.Catch(parent)
	defer stop()
	var command *child.Command
	if len(args) > 0 {
		var err error
		if command, err = child.New(args, a.in, a.out, a.err); err != nil {
			return commandError(err)
		}
		command.Signals, command.Say = caught, func(text string) { a.log.say(text, text) }
	}
	s, err := a.connect(ctx, "wait")
	if err != nil {
		return err
	}
	defer s.Close()         //nolint:errcheck // nothing was changed
	s.DB.SetMaxIdleConns(0) // between two questions somebody else may need it
	if err := w.wait(ctx, a, s.DB); err != nil {
		return a.failure(ctx, err)
	}
	if command == nil {
		return nil
	}
	_ = s.Close()
	code, err := command.Replace()
	if err != nil {
		return commandError(err)
	}
	return exitWith(code)
}

// wait asks until the answer is yes, and asks again when the server goes away in
// between.
func (w *waiter) wait(ctx context.Context, a *app, db *sql.DB) error {
	begun := time.Now()
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, w.timeout, &timeoutError{w.timeout})
		defer cancel()
	}
	say := w.sayer(a, begun)
	for {
		ready, err := w.await(ctx, db, say)
		var late *timeoutError
		switch {
		case errors.As(context.Cause(ctx), &late):
			return &exitError{code: exitNotInTime, err: fmt.Errorf("%s was not ready within %v", w.what(), w.timeout)}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !isUnreachable(err):
			return err
		case ready:
			return nil
		}
		say(nil)
		// A tenth of the wait so far: nobody waits for much longer than needed.
		pause := min(max(time.Since(begun)/10, 20*time.Millisecond), time.Second)
		select {
		case <-time.After(pause/2 + rand.N(pause/2)): //nolint:gosec // not a secret
		case <-ctx.Done():
		}
	}
}

// await asks once, or, where a schema is named, until the answer is yes: then
// whoever migrates it under the schema's lock is waited for.
func (w *waiter) await(ctx context.Context, db *sql.DB, say func([]advisorylock.Session)) (bool, error) {
	if w.schema == "" {
		return w.ready(ctx, db)
	}
	guard := schemaguard.Guard{
		UpToDate: w.ready,
		Trace:    &locktrace.Trace{Waiting: func(_ context.Context, wait locktrace.Wait) { say(wait.Holders) }},
	}
	err := guard.Await(ctx, db, w.schema)
	return err == nil, err
}

// sayer returns what says that the wait lasts, after a second and then every ten.
func (w *waiter) sayer(a *app, begun time.Time) func([]advisorylock.Session) {
	next := begun.Add(time.Second)
	return func(who []advisorylock.Session) {
		now := time.Now()
		if now.Before(next) {
			return
		}
		next = now.Add(10 * time.Second)
		waited := now.Sub(begun)
		a.log.say(fmt.Sprintf("waiting for %s for %v now%s", w.what(), waited.Round(100*time.Millisecond), holders(who, "")),
			"waiting to be ready", slog.String("for", w.what()), seconds("waited_seconds", waited), slog.Any("holders", list(who)))
	}
}

func (w *waiter) what() string {
	if w.schema != "" {
		return fmt.Sprintf("schema %q", w.schema)
	}
	return "the database"
}

func (w *waiter) ready(ctx context.Context, db *sql.DB) (bool, error) {
	if w.schema != "" {
		there, err := askAgain(ctx, db, "SELECT true FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) "+literal(w.schema))
		if !there || err != nil || w.until == "" {
			return there, err
		}
	}
	ready, err := askAgain(ctx, db, w.until)
	if err != nil {
		return false, fmt.Errorf("--until: %w", err)
	}
	return ready, nil
}
