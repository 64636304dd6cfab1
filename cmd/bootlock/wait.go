package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/health"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/server"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
	"github.com/bootlock/bootlock/internal/waiting"
)

type waiter struct {
	until, schema string
	once
	timeout time.Duration
}

func (a *app) waitCommand() *cobra.Command {
	w := &waiter{}
	cmd := &cobra.Command{
		Use:   "wait {--until SQL | --schema NAME --once NAME} [flags] [--] [COMMAND [ARGUMENT…]]",
		Short: "Wait until another process has migrated, then run COMMAND",
		Long: `wait is for processes that must not migrate: it returns when the query of --until
returns true, or when bootlock ensure, or a Go program, has run what --once or --once-of
names in the schema. COMMAND, if there is one, then takes the place of bootlock (on
Windows it is a child).

The query returns one boolean; no row counts as false, and so does a table, schema,
column or function that is missing. Anything else is refused. With --once, a table that
this role may not read yet counts as missing. wait also waits for a server that is not
up, has no connection left, or has no such database yet.

wait takes no lock, changes nothing, and works on a standby.

Exit codes: that of COMMAND, or 0; 64 for wrong usage; after --timeout, 75 if the last
answer was false and 69 if there was none; 69 also if the server refused the connection;
125 for an error in the query; 126 and 127 if COMMAND cannot be run or does not exist.`,
		Example: `  bootlock wait --until "SELECT count(*) > 0 FROM app.migrations WHERE version = 42" -- node app.js
  bootlock wait --schema app --once-of migrations -- node app.js`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(cmd); err != nil {
				return err
			}
			return a.wait(cmd.Context(), w, args)
		},
	}
	cmd.Flags().StringVar(&w.until, "until", "", "a query that returns one boolean; true ends the wait")
	cmd.Flags().StringVar(&w.schema, "schema", "", "the schema of --once and --once-of")
	w.flags(cmd, "until")
	duration(cmd.Flags(), &w.timeout, "timeout", "how long to wait (default: for ever)")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (w *waiter) check(cmd *cobra.Command) error {
	if err := w.once.check(cmd); err != nil {
		return err
	}
	switch {
	case w.timeout < 0:
		return usage("--timeout cannot be negative")
	case w.until != "":
		return nil
	case w.name == "" && w.schema != "":
		return usage("that a schema exists does not say that its migrations have run: ask for them by --once, --once-of, or --until, such as \"SELECT count(*) > 0 FROM app.migrations WHERE version = 42\"")
	case w.name == "":
		return usage("wait needs --until, --once or --once-of")
	}
	return checkSchema(w.schema)
}

func (w *waiter) question() question {
	if w.until != "" {
		return question{flag: "--until", query: w.until}
	}
	return question{
		flag:   "--once", // the name is a literal whatever the server's settings are
		query:  "SELECT true FROM " + pgx.Identifier{w.schema, "bootlock_once"}.Sanitize() + " WHERE name OPERATOR(pg_catalog.=) '" + w.name + "'",
		unread: true,
	}
}

func (a *app) wait(parent context.Context, w *waiter, args []string) error {
	ctx, caught, stop := signals.Catch(parent)
	defer stop()
	command, err := a.newChild(args, caught)
	if err != nil {
		return err
	}
	s, err := a.open("wait", false)
	if err != nil {
		return err
	}
	defer s.Close()         //nolint:errcheck // nothing was changed
	s.DB.SetMaxIdleConns(0) // between two questions somebody else may need it
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, w.timeout, &timeoutError{w.timeout})
		defer cancel()
	}
	now := time.Now()
	p := &progress{log: a.log, what: "what " + w.question().flag + " asks for", over: "there", begun: now, next: now.Add(time.Second)}
	if err := w.ask(ctx, s, p); err != nil {
		var late *timeoutError
		if errors.As(context.Cause(ctx), &late) {
			return p.late(w.timeout, exitNotInTime)
		}
		return a.failure(ctx, err)
	}
	_ = s.Close()
	return replace(command)
}

func (w *waiter) ask(ctx context.Context, s *server.Server, p *progress) error {
	q := w.question()
	p.last = reason{text: server.ErrSilent.Error(), noAnswer: true}
	away := func(err error) { p.server(s.Address, err) }
	if err := s.Await(ctx, server.Patience{Server: server.Forever}, away); err != nil {
		return err
	}
	for {
		yes, why, err := q.ask(ctx, s.DB)
		if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
			<-ctx.Done() // a dialer may notice before it does
		}
		var exit *exitError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &exit):
			return err
		case server.MayPass(err):
			away(err)
		case yes || err != nil:
			return err
		default:
			p.is(health.Waiting, "", reason{text: q.flag + " says no"})
			if why != "" {
				p.last.text += ": " + why
			}
			p.say(p.what, "waiting to be ready", true)
		}
		// A tenth of the wait so far: nobody waits for much longer than needed.
		wait := min(max(time.Since(p.begun)/10, 20*time.Millisecond), time.Second)
		waiting.Pause(ctx, wait)
	}
}
