package main

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/locks"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/server"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
	"github.com/bootlock/bootlock/internal/waiting"
	"github.com/bootlock/bootlock/schemaguard"
)

type ender struct {
	name, schema string
	key          int64
	yes          bool
	timeout      time.Duration
}

func (a *app) endCommand() *cobra.Command {
	e := &ender{}
	cmd := &cobra.Command{
		Use:   "end {--lock NAME | --key N | --schema NAME} [--yes]",
		Short: "End the holder of a lock, and wait until its command is gone",
		Long: `end shows who has the lock, asks whether to go on, ends the holder's session on
the server, and waits until its client is gone: a command under bootlock run gets
SIGTERM then, and may take its --grace to end. The next in line may begin as soon
as the session has ended.

With --schema it is the lock that the schema's migrations run under, if somebody
has that, else the one that the schema is created under.

Whether a client is gone can be told of bootlock run and bootlock ensure, as long
as they are not frozen and can reach the server. Of others, and of another program,
it can only be told that the session has ended.

It needs membership in pg_signal_backend, or in the role of the holder.

The exit code is 0 if the holder and its command are gone, or nobody has the lock;
1 if the answer was no; 75 if they were not gone within --timeout; 76 if the session
is gone and it cannot be told whether its command is; 64, 69 and 125 as for
bootlock run.`,
		Example: `  bootlock end --lock nightly
  bootlock end --schema app --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for flag, name := range map[string]string{"lock": e.name, "schema": e.schema} {
				if cmd.Flags().Changed(flag) {
					if err := checkName("--"+flag, name); err != nil {
						return err
					}
				}
			}
			keys := e.keys(cmd.Flags().Changed("key"))
			return a.end(cmd.Context(), e, keys)
		},
	}
	cmd.Flags().StringVar(&e.name, "lock", "", "the lock's name")
	cmd.Flags().Int64Var(&e.key, "key", 0, "the lock's key")
	cmd.Flags().StringVar(&e.schema, "schema", "", "the schema whose lock it is")
	cmd.Flags().BoolVarP(&e.yes, "yes", "y", false, "do not ask")
	e.timeout = 30 * time.Second
	duration(cmd.Flags(), &e.timeout, "timeout", "how long to wait until the client is gone")
	cmd.MarkFlagsOneRequired("lock", "key", "schema")
	cmd.MarkFlagsMutuallyExclusive("lock", "key", "schema")
	return cmd
}

// keys are the locks to look at, the more likely one first.
func (e *ender) keys(byKey bool) []advisorylock.Key {
	switch {
	case byKey:
		return []advisorylock.Key{advisorylock.Key(e.key)}
	case e.schema != "":
		key := schemaguard.KeyFor(e.schema)
		return []advisorylock.Key{schemaguard.MigrateKey(key), key}
	}
	return []advisorylock.Key{advisorylock.KeyOf(e.name)}
}

func (a *app) end(parent context.Context, e *ender, keys []advisorylock.Key) error {
	ctx, _, stop := signals.Catch(parent)
	defer stop()
	s, err := a.connect(ctx, "end")
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // nothing is left to do
	holders, err := holdersOf(ctx, s.DB, keys...)
	switch {
	case err != nil:
		return a.failure(ctx, err)
	case len(holders) == 0:
		fmt.Fprintln(a.out, "Nobody has the lock.")
		return nil
	}
	for _, h := range holders {
		fmt.Fprintf(a.out, "held by %s\n", locks.OneLine(h.String(), 300))
	}
	if !e.yes && !a.confirm(ctx, len(holders)) {
		if ctx.Err() == nil {
			fmt.Fprintln(a.out, "Nothing was done.")
		}
		return a.failure(ctx, cmp.Or(context.Cause(ctx), error(&exitError{code: exitFailed})))
	}
	var unknown error
	for _, h := range holders {
		if err := a.endSession(ctx, s.DB, h, e.timeout); errors.Is(err, errUnknown) {
			unknown = err
		} else if err != nil {
			return a.failure(ctx, err)
		}
	}
	return unknown
}

// holdersOf returns who has the first of keys that somebody has.
func holdersOf(ctx context.Context, db *sql.DB, keys ...advisorylock.Key) (holders []advisorylock.Session, err error) {
	for _, key := range keys {
		sessions, err := advisorylock.Sessions(ctx, db, key)
		holders = slices.DeleteFunc(sessions, func(s advisorylock.Session) bool { return !s.Granted })
		if err != nil || len(holders) > 0 {
			return holders, err
		}
	}
	return nil, nil
}

// confirm asks; a signal is no answer.
func (a *app) confirm(ctx context.Context, n int) bool {
	them := "it"
	if n > 1 {
		them = "them"
	}
	fmt.Fprintf(a.out, "End %s? [y/N] ", them)
	answers := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(a.in).ReadString('\n')
		answers <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case answer := <-answers:
		return answer == "y" || answer == "yes"
	case <-ctx.Done():
		fmt.Fprintln(a.out)
		return false
	}
}

// endSession ends the session of a holder and waits until it and its client are
// gone. The session is named by when its transaction began as well: its process
// number may be another's by now.
func (a *app) endSession(ctx context.Context, db *sql.DB, h advisorylock.Session, timeout time.Duration) error {
	if h.PID == 0 {
		return errors.New("a prepared transaction has the lock; to end it: ROLLBACK PREPARED, with its gid of pg_prepared_xacts")
	}
	var ended bool
	err := db.QueryRowContext(ctx, fmt.Sprintf(`SELECT COALESCE(pg_catalog.bool_or(pg_catalog.pg_terminate_backend(a.pid)), false)
FROM pg_catalog.pg_stat_activity a
WHERE a.pid OPERATOR(pg_catalog.=) %d AND (a.xact_start IS NULL OR pg_catalog.abs(EXTRACT(EPOCH FROM a.xact_start)::pg_catalog.float8 OPERATOR(pg_catalog.-) %f) OPERATOR(pg_catalog.<) 0.001::pg_catalog.float8)`,
		h.PID, float64(h.Since.UnixMicro())/1e6)).Scan(&ended)
	if err != nil {
		return err
	}
	if !ended {
		fmt.Fprintf(a.out, "pid %d has ended by itself.\n", h.PID)
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &timeoutError{timeout})
	defer cancel()
	if err := untilTrue(ctx, db, fmt.Sprintf("SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) %d)", h.PID)); err != nil {
		return stillThere(err, fmt.Errorf("the session of pid %d has not ended within %v", h.PID, timeout))
	}
	return a.awaitClient(ctx, db, h, timeout)
}

// clientOf is in the application name of a bootlock that holds a lock, unless it was
// given another; the same client calls itself "bootlock ending" while its command ends.
var clientOf = regexp.MustCompile(`^bootlock (?:run|ensure) (\(.*, pid \d+\))$`)

// noticeTime is how long a client may take to notice that its lock is gone, the
// heartbeat of a second, and to say so.
const noticeTime = 3 * time.Second

// errUnknown is a client of which only the session is known to be gone.
var errUnknown = &exitError{code: exitUnknown}

// awaitClient waits until the client of a session that has ended has said that it
// ends its command, and then until it is gone.
func (a *app) awaitClient(ctx context.Context, db *sql.DB, h advisorylock.Session, timeout time.Duration) error {
	says := "pg_catalog.strpos(query, " + literal(server.Ending(uint32(h.PID))) + ") OPERATOR(pg_catalog.>) 0" //nolint:gosec // it is one
	if client := clientOf.FindStringSubmatch(h.Application); client != nil {
		says += " OR application_name OPERATOR(pg_catalog.=) " + literal("bootlock ending "+client[1])
	}
	isEnding := "EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid() AND (" + says + "))"
	late := fmt.Errorf("the session has ended, and the command of %s has not within %v", h.Application, timeout)
	notice, cancel := context.WithTimeout(ctx, noticeTime)
	defer cancel()
	switch err := untilTrue(notice, db, "SELECT "+isEnding); {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		fmt.Fprintf(a.out, "The session of pid %d has ended. Whether the command of %s has cannot be seen from here: it is another program, frozen, or cut off.\n",
			h.PID, cmp.Or(locks.OneLine(h.Application, 63), "its client"))
		return errUnknown
	case err != nil:
		return stillThere(err, late)
	}
	fmt.Fprintln(a.out, "The session has ended, and its command is ending.")
	if err := untilTrue(ctx, db, "SELECT NOT "+isEnding); err != nil {
		return stillThere(err, late)
	}
	fmt.Fprintln(a.out, "Its command is gone.")
	return nil
}

func stillThere(err, late error) error {
	var timeout *timeoutError
	if errors.As(err, &timeout) {
		return &exitError{code: exitNotInTime, err: late}
	}
	return err
}

func untilTrue(ctx context.Context, db *sql.DB, question string) error {
	for {
		var yes bool
		err := db.QueryRowContext(ctx, question).Scan(&yes)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if yes || err != nil {
			return err
		}
		waiting.Pause(ctx, 20*time.Millisecond)
	}
}
