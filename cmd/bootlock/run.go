package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/bridge"
)

type runner struct {
	turn
	names []string
	keys  []int64
	try   bool
	locks []namedLock // in the order in which they are taken
}

type namedLock struct {
	key  advisorylock.Key
	name string // empty if it was given by its key
}

func (l namedLock) String() string {
	if l.name == "" {
		return "key " + l.key.String()
	}
	return fmt.Sprintf("lock %q", l.name)
}

func (l namedLock) flag() string {
	if l.name == "" {
		return "--key " + l.key.String()
	}
	return "--lock " + shellQuote(l.name)
}

func (a *app) runCommand() *cobra.Command {
	r := &runner{}
	cmd := &cobra.Command{
		Use:   "run --lock NAME [flags] [--] COMMAND [ARGUMENT…]",
		Short: "Hold a lock while COMMAND runs",
		Long: `run waits for the lock, runs COMMAND, and exits with its exit code. COMMAND has
stdin, stdout, stderr and the environment of bootlock. Without the lock, COMMAND
does not start.

With several --lock and --key all of them are taken, in the order of their keys,
so that two commands never wait for each other; runs inside runs may. --key N is the
lock that another program takes by pg_advisory_lock(N). A run inside a run of the same
lock would wait for itself, and is refused.

The lock is a lease that the server enforces: it is free again when bootlock is
gone, and --ttl after it has gone silent. It is held for as long as COMMAND runs,
so a server belongs under bootlock ensure, or after bootlock run. COMMAND may do
whatever it likes in the database, CREATE INDEX CONCURRENTLY included: the lock is
held in a separate session that blocks nothing else. Unless --try is given, bootlock
gives the lock back while the server has no connection for COMMAND. It does not retry
after a clash with a process that does not take the lock.

COMMAND can fence its transactions: one that begins with the statement in
BOOTLOCK_FENCE_SQL, in the same database, fails if the lock is lost by then; if it
does not fail, the next holder begins only when it has ended.

With --unless, COMMAND runs once for all: the query runs before the lock is taken,
whenever a waiting process finds the lock free, and once it is held. It returns one
boolean; no row counts as false, and so does a table, schema, column or function that
is missing. Anything else is refused.

` + childHelp + `

` + exitHelp,
		Example: `  bootlock run --lock migrate -- npx prisma migrate deploy
  bootlock run --lock nightly --try -- ./report.sh
  bootlock run --lock load --timeout 5m -- psql -f load.sql
  bootlock run --lock migrate --unless "SELECT count(*) > 0 FROM migrations WHERE version = 42" -- ./migrate`,
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
			ctx, finish, err := r.begin(cmd.Context(), a, "run", !r.try, args)
			if err != nil {
				return err
			}
			return finish(r.hold(ctx))
		},
	}
	cmd.Flags().StringArrayVar(&r.names, "lock", nil, "the lock's name; can be repeated")
	cmd.Flags().Int64SliceVar(&r.keys, "key", nil, "the lock's key, where another program uses that; can be repeated")
	cmd.Flags().Lookup("key").DefValue = ""
	cmd.Flags().BoolVar(&r.try, "try", false, "do not wait for the lock")
	r.flags(cmd)
	cmd.MarkFlagsMutuallyExclusive("try", "timeout")
	cmd.MarkFlagsOneRequired("lock", "key")
	return cmd
}

const childHelp = `Signals go to COMMAND and its children; on a terminal it stays in the foreground,
with whatever is typed there. A second Ctrl-C within two seconds makes it a SIGTERM,
a third SIGKILL; --kill-after does that for any signal. When the lock is lost while
COMMAND runs, because the server or the network is, COMMAND gets SIGTERM, and after
--grace SIGKILL. If the server ends the session, the next heartbeat notices it, a
second later at most.

When bootlock itself is killed, its lock is free at once, and COMMAND and its
children are killed; on Windows they are not, nor, on a terminal, are the children.
What COMMAND leaves in the background goes on without the lock when COMMAND ends.`

func (r *runner) check() error {
	for _, name := range r.names {
		if err := checkName("--lock", name); err != nil {
			return err
		}
		r.locks = append(r.locks, namedLock{advisorylock.KeyOf(name), name})
	}
	for _, key := range r.keys {
		r.locks = append(r.locks, namedLock{key: advisorylock.Key(key)})
	}
	slices.SortStableFunc(r.locks, func(a, b namedLock) int { return cmp.Compare(a.key, b.key) })
	r.locks = slices.CompactFunc(r.locks, func(a, b namedLock) bool { return a.key == b.key })
	var names []string
	for _, l := range r.locks {
		names = append(names, cmp.Or(l.name, l.key.String()))
	}
	r.name = strings.Join(names, ",")
	r.lockIs(r.locks[0])
	return r.turn.check()
}

func (r *runner) lockIs(l namedLock) {
	r.what, r.end = l.String(), "bootlock end "+l.flag()
}

func checkName(flag, name string) error {
	if name == "" || strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
		return usage("%s is a name: not empty, valid UTF-8, without NUL", flag)
	}
	return nil
}

func (r *runner) hold(ctx context.Context) error {
	var keys []advisorylock.Key
	for _, l := range r.locks {
		if err := checkNesting(r.server.ID, l.String(), l.key); err != nil {
			return err
		}
		keys = append(keys, l.key)
	}
	return r.unlessDone(ctx, func(ctx context.Context) error {
		return r.take(ctx, r.locks, func(ctx context.Context) error {
			return r.unlessDone(ctx, func(ctx context.Context) error { return r.run(ctx, keys) })
		})
	})
}

// take takes locks, one inside the other, and calls fn.
func (r *runner) take(ctx context.Context, locks []namedLock, fn func(ctx context.Context) error) error {
	if len(locks) == 0 {
		return fn(ctx)
	}
	lock, inside := locks[0], false
	r.lockIs(lock)
	err := r.holdOne(ctx, lock, len(locks) == 1, func(ctx context.Context) error {
		inside = true
		if err := r.fence(ctx); err != nil {
			return err
		}
		return r.take(ctx, locks[1:], fn)
	})
	if !inside && r.try && errors.Is(err, advisorylock.ErrNotAcquired) {
		look, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		holders, _ := holdersOf(look, r.server.DB, lock.key)
		why := heldBy(holders)
		err = &exitError{
			code: r.conflictCode, err: fmt.Errorf("somebody else has %v: %s", lock, why.text),
			reason: why.text, holders: list(why.holders), end: r.end,
		}
	}
	return err
}

// holdOne takes one lock, the last of them only if COMMAND can have a connection too.
func (r *runner) holdOne(ctx context.Context, lock namedLock, last bool, fn func(ctx context.Context) error) error {
	name := cmp.Or(lock.name, lock.key.String())
	if r.try {
		return advisorylock.Locker{TTL: r.ttl, Name: name, Trace: r.trace()}.TryHold(ctx, r.server.DB, lock.key, fn)
	}
	call := bridge.Call{Op: "advisorylock.Hold", DB: r.server.DB, Key: int64(lock.key), Name: name, TTL: r.ttl, Trace: r.trace()}
	if last {
		call.Work = r.server.DB
	}
	if r.unless != "" {
		call.Done = r.done
	}
	return bridge.Hold(ctx, call, fn)
}
