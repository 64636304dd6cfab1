package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// lease are the flags of run and ensure.
type lease struct {
	ttl, timeout, grace time.Duration
}

func (l *lease) flags(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&l.ttl, "ttl", 30*time.Second, "how long a holder that has gone silent keeps the lock")
	cmd.Flags().DurationVar(&l.timeout, "timeout", 0, "how long to wait for the lock (default: for ever)")
	cmd.Flags().DurationVar(&l.grace, "grace", 10*time.Second, "how long COMMAND has to end after SIGTERM when the lock is lost")
	// What follows the command's name is the command's, with or without --.
	cmd.Flags().SetInterspersed(false)
}

func (l *lease) check() error {
	switch {
	case l.ttl < time.Second:
		return usage("--ttl must be one second at least")
	case l.timeout < 0 || l.grace < 0:
		return usage("--timeout and --grace cannot be negative")
	}
	return nil
}

// limit ends ctx with a timeoutError, unless stopped before.
func (l *lease) limit(ctx context.Context) (_ context.Context, stop func()) {
	if l.timeout == 0 {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(l.timeout, func() { cancel(&timeoutError{l.timeout}) })
	return ctx, func() { timer.Stop() }
}

type runner struct {
	lease
	name        string
	try, shared bool
}

func (a *app) runCommand() *cobra.Command {
	r := &runner{}
	cmd := &cobra.Command{
		Use:   "run --lock NAME [flags] [--] COMMAND [ARGUMENT…]",
		Short: "Hold a lock while COMMAND runs",
		Long: `run waits for the lock, runs COMMAND, and exits with its exit code. COMMAND has
stdin, stdout, stderr and the environment of bootlock. Signals go to it and its
children; on a terminal it stays in the foreground, with whatever is typed there.
Nothing is started if the lock could not be had.

The lock is a lease that the server enforces: it is free again when bootlock is
gone, and --ttl after it has gone silent. When it is lost while COMMAND runs,
because the server or the network is, COMMAND gets SIGTERM, and after --grace
SIGKILL.

COMMAND may do whatever it likes in the database, CREATE INDEX CONCURRENTLY
included: the lock is held in a session of its own that stands in nobody's way.

` + exitHelp,
		Example: `  bootlock run --lock migrate -- npx prisma migrate deploy
  bootlock run --lock nightly --try -- ./report.sh
  bootlock run --lock load --timeout 5m -- psql -f load.sql`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("run needs a COMMAND")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.check(); err != nil {
				return err
			}
			return a.runUnder(cmd.Context(), r, args)
		},
	}
	cmd.Flags().StringVar(&r.name, "lock", "", "the lock's name")
	cmd.Flags().BoolVar(&r.try, "try", false, "do not wait for the lock")
	cmd.Flags().BoolVar(&r.shared, "shared", false, "share the lock with others that share it")
	r.flags(cmd)
	must(cmd.MarkFlagRequired("lock"))
	cmd.MarkFlagsMutuallyExclusive("try", "timeout")
	return cmd
}

func (r *runner) check() error {
	if err := checkName("--lock", r.name); err != nil {
		return err
	}
	return r.lease.check()
}

func checkName(flag, name string) error {
	if name == "" || strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
		return usage("%s is a name: not empty, valid UTF-8, without NUL", flag)
	}
	return nil
}

func (a *app) runUnder(parent context.Context, r *runner, args []string) error {
	ctx, signals, stop := catchSignals(parent)
	defer stop()
	child, err := a.command(args, r.grace, signals)
	if err != nil {
		return err
	}
	db, err := a.connect(ctx, "run")
	if err != nil {
		return err
	}
	defer db.Close()

	ctx, granted := r.limit(ctx)
	what := fmt.Sprintf("lock %q", r.name)
	locker := advisorylock.Locker{TTL: r.ttl, Shared: r.shared, Name: r.name, Trace: a.trace(what)}
	hold := locker.Hold
	if r.try {
		hold = locker.TryHold
	}
	key := advisorylock.KeyOf(r.name)
	err = hold(ctx, db, key, func(ctx context.Context) error {
		granted()
		return child.run(ctx)
	})
	return a.failure(ctx, r.explain(ctx, db, key, what, err))
}

// explain says who has the lock, in the words of this command.
func (r *runner) explain(ctx context.Context, db *sql.DB, key advisorylock.Key, what string, err error) error {
	if errors.Is(err, advisorylock.ErrNotAcquired) {
		return notInTime(what, holdersOf(ctx, db, key), "")
	}
	return explainWait(ctx, what, err)
}

func holdersOf(ctx context.Context, db *sql.DB, key advisorylock.Key) []advisorylock.Session {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	sessions, err := advisorylock.Sessions(ctx, db, key)
	if err != nil {
		return nil
	}
	for i, s := range sessions {
		if !s.Granted {
			return sessions[:i]
		}
	}
	return sessions
}

// trace tells of a wait while it lasts, and of its end.
func (a *app) trace(what string) *locktrace.Trace {
	waiting := a.log.waitingForLock(what)
	said := false
	return &locktrace.Trace{
		Waiting: func(ctx context.Context, w locktrace.Wait) {
			said = true
			waiting(ctx, w)
		},
		Done: func(_ context.Context, e locktrace.Event) {
			if said && e.Step == locktrace.Lock && e.Err == nil {
				said = false
				a.log.say(fmt.Sprintf("got %s after %v", what, e.Duration.Round(100*time.Millisecond)),
					"got the lock", slog.String("lock", e.Name), slog.String("key", advisorylock.Key(e.Key).String()), seconds(e.Duration))
			}
		},
	}
}
