package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

type ensurer struct {
	lease
	schema, owner, bootstrap string
	skip, serialize          bool
}

func (a *app) ensureCommand() *cobra.Command {
	e := &ensurer{}
	cmd := &cobra.Command{
		Use:   "ensure --schema NAME [flags] [--] [COMMAND [ARGUMENT…]]",
		Short: "Create a schema if it is not there, then run COMMAND",
		Long: `ensure creates the schema under a lock, commits, gives the connection back, and
then runs COMMAND, if there is one. Any number of processes may do that at once.

With --bootstrap the statements of a file run under the same lock, in the same
transaction. They may run in every start, and so should be idempotent; neither
psql's backslash commands nor BEGIN and COMMIT can be among them.

COMMAND is not serialised, and takes the place of bootlock (on Windows it is a
child), unless --serialize is given: then it runs under a lock, as with
bootlock run, and one process at a time. Migration tools without a lock of
their own need that.

` + exitHelp,
		Example: `  bootlock ensure --schema app
  bootlock ensure --schema app --owner app --bootstrap grants.sql
  bootlock ensure --schema app --serialize -- alembic upgrade head`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.check(args); err != nil {
				return err
			}
			return a.ensure(cmd.Context(), e, args)
		},
	}
	cmd.Flags().StringVar(&e.schema, "schema", "", "the schema's name, as it is, without quotes")
	cmd.Flags().StringVar(&e.owner, "owner", "", "the role that is to own it, if it is created now (default: the one that connects)")
	cmd.Flags().StringVar(&e.bootstrap, "bootstrap", "", "a file of SQL to run under the same lock, in the same transaction")
	cmd.Flags().BoolVar(&e.skip, "skip-if-exists", false, "if the schema is there, take no lock and leave out --bootstrap")
	cmd.Flags().BoolVar(&e.serialize, "serialize", false, "run COMMAND in one process at a time")
	e.flags(cmd)
	must(cmd.MarkFlagRequired("schema"))
	must(cmd.MarkFlagFilename("bootstrap", "sql"))
	return cmd
}

func (e *ensurer) check(args []string) error {
	if err := checkName("--schema", e.schema); err != nil {
		return err
	}
	if e.serialize && len(args) == 0 {
		return usage("--serialize needs a COMMAND")
	}
	return e.lease.check()
}

func (a *app) ensure(parent context.Context, e *ensurer, args []string) error {
	guard, err := e.guard()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	ctx, signals, stop := catchSignals(parent)
	defer stop()
	var child *child
	if len(args) > 0 {
		if child, err = a.command(args, e.grace, signals); err != nil {
			return err
		}
	}
	db, err := a.connect(ctx, "ensure")
	if err != nil {
		return err
	}
	defer db.Close()

	ctx, granted := e.limit(ctx)
	what := fmt.Sprintf("the lock of schema %q", e.schema)
	guard.Trace = a.trace(what)
	var migrate func(context.Context, *sql.DB) error
	if e.serialize {
		migrate = func(ctx context.Context, _ *sql.DB) error {
			granted()
			return child.run(ctx)
		}
	}
	err = guard.Ensure(ctx, db, e.schema, migrate)
	if err != nil || child == nil || e.serialize {
		return a.failure(ctx, explainWait(ctx, what, err))
	}
	granted()
	if cause := context.Cause(ctx); cause != nil {
		return a.failure(ctx, cause)
	}
	if err := db.Close(); err != nil {
		return &exitError{exitOwn, err}
	}
	return child.replace()
}

func (e *ensurer) guard() (schemaguard.Guard, error) {
	guard := schemaguard.Guard{Owner: e.owner, SkipIfExists: e.skip, Serialize: e.serialize, TTL: e.ttl}
	if e.bootstrap == "" {
		return guard, nil
	}
	text, err := os.ReadFile(e.bootstrap)
	if err != nil {
		return guard, err
	}
	guard.Bootstrap = func(ctx context.Context, tx *sql.Tx) error { return execFile(ctx, tx, string(text)) }
	return guard, nil
}

// execFile runs the statements, and finds out whether one of them ended the
// transaction, and with it the lock: a setting that is local to it is gone then.
func execFile(ctx context.Context, tx *sql.Tx, text string) error {
	mark := rand.Text()
	if _, err := tx.ExecContext(ctx, "SELECT pg_catalog.set_config('bootlock.bootstrap', '"+mark+"', true)"); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, text); err != nil {
		return err
	}
	var now sql.NullString
	if err := tx.QueryRowContext(ctx, "SELECT pg_catalog.current_setting('bootlock.bootstrap', true)").Scan(&now); err != nil {
		return err
	}
	if now.String != mark {
		return errors.New("the file ended the transaction, and with it the lock: leave out BEGIN, COMMIT and ROLLBACK")
	}
	return nil
}

// explainWait says who had the lock for longer than --timeout.
func explainWait(ctx context.Context, what string, err error) error {
	var wait *advisorylock.WaitError
	var late *timeoutError
	if errors.As(err, &wait) && errors.As(context.Cause(ctx), &late) {
		return notInTime(what, wait.Holders, fmt.Sprintf("within %v", late.after))
	}
	return err
}
