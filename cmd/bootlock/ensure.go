package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

type ensurer struct {
	turn
	schema, owner, bootstrap string
	skip, serialize          bool
	once
}

func (a *app) ensureCommand() *cobra.Command {
	e := &ensurer{}
	cmd := &cobra.Command{
		Use:   "ensure --schema NAME [flags] [--] [COMMAND [ARGUMENT…]]",
		Short: "Create a schema if it is not there, then run COMMAND",
		Long: `ensure creates the schema under a lock, commits, gives the connection back, and
then runs COMMAND, if there is one. Any number of processes may do that at once.

With --bootstrap the statements of a file, or of stdin with "-", run under the same
lock, in the same transaction. They may run in every start, and so should be
idempotent; neither psql's backslash commands, COPY from stdin, BEGIN nor COMMIT
can be among them. With --unless they are left out, and the lock with them, if the query says
that there is nothing to do.

COMMAND is not serialised, and takes the place of bootlock (on Windows it is a
child): no lock and no connection is left, so that a server can run there. With
--serialize COMMAND runs under a lock, as with bootlock run, in one process at a
time. Migration tools without a lock of their own need that. With --unless as well,
it runs once for all.

With --once NAME, COMMAND runs once for all under that name, in one process, and the
others go on when it has succeeded. NAME stands for what COMMAND does: change it with
every migration. With --once-of DIR, NAME is the hash of the files in DIR, as by
schemaguard.HashFS in a Go program; names that begin with a dot are left out. What has
run is a row of the table bootlock_once in the schema. It is written if COMMAND
succeeded and the lock was held to its end. If a migration was undone by hand, delete
its row.

On a standby ensure refuses; bootlock wait is for processes that only read.

With --serialize and --once: ` + strings.TrimPrefix(childHelp, "Signals") + `

` + exitHelp,
		Example: `  bootlock ensure --schema app
  bootlock ensure --schema app --owner app --bootstrap grants.sql
  bootlock ensure --schema app --serialize -- alembic upgrade head
  bootlock ensure --schema app --once-of migrations -- alembic upgrade head
  bootlock ensure --schema graphile_worker --bootstrap graphile_worker.sql -- node app.js`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.once.check(cmd); err != nil {
				return err
			}
			if err := e.check(args); err != nil {
				return err
			}
			guard, err := e.guard(a.in)
			if err != nil {
				return &exitError{code: exitUsage, err: err}
			}
			ctx, finish, err := e.begin(cmd.Context(), a, "ensure", true, args)
			if err != nil {
				return err
			}
			if err := e.ensure(ctx, guard); err != nil || e.serialize {
				return finish(err)
			}
			if err := finish(context.Cause(ctx)); err != nil {
				return err
			}
			return replace(e.child)
		},
	}
	cmd.Flags().StringVar(&e.schema, "schema", "", "the schema's name, as it is, without quotes")
	cmd.Flags().StringVar(&e.owner, "owner", "", "the role that is to own it and the table of --once, if they are created now (default: the one that connects)")
	cmd.Flags().StringVar(&e.bootstrap, "bootstrap", "", "a file of SQL to run under the same lock, in the same transaction; - is stdin")
	cmd.Flags().BoolVar(&e.skip, "skip-if-exists", false, "if the schema is there, or with --once its table, leave out its lock and --bootstrap")
	cmd.Flags().BoolVar(&e.serialize, "serialize", false, "run COMMAND in one process at a time")
	e.turn.flags(cmd)
	e.once.flags(cmd, "unless")
	must(cmd.MarkFlagRequired("schema"))
	must(cmd.MarkFlagFilename("bootstrap", "sql"))
	return cmd
}

func (e *ensurer) check(args []string) error {
	if err := checkSchema(e.schema); err != nil {
		return err
	}
	e.serialize = e.serialize || e.once.name != ""
	if e.serialize && len(args) == 0 {
		return usage("--serialize, --once or --once-of needs a COMMAND")
	}
	e.turn.name, e.what, e.end = e.schema, fmt.Sprintf("the lock of schema %q", e.schema), "bootlock end --schema "+shellQuote(e.schema)
	return e.turn.check()
}

// checkSchema refuses what the server would refuse, or cut, later on.
func checkSchema(name string) error {
	if err := checkName("--schema", name); err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(name, "pg_"):
		return usage("--schema %s: PostgreSQL keeps names that start with pg_ for itself", name)
	case len(name) > 63:
		return usage("--schema has %d bytes; PostgreSQL would cut it to 63", len(name))
	}
	return nil
}

// guard has what does not need a connection.
func (e *ensurer) guard(stdin io.Reader) (schemaguard.Guard, error) {
	guard := schemaguard.Guard{Owner: e.owner, SkipIfExists: e.skip, Serialize: e.serialize, Once: e.once.name, TTL: e.ttl, Trace: e.trace()}
	var text []byte
	var err error
	switch e.bootstrap {
	case "":
		return guard, nil
	case "-":
		text, err = io.ReadAll(stdin)
	default:
		text, err = os.ReadFile(e.bootstrap)
	}
	if err == nil && copyFromStdin.Match(text) {
		err = errors.New("--bootstrap: COPY … FROM stdin needs psql: bootlock run --lock NAME -- psql -f FILE")
	}
	if err != nil {
		return guard, err
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	guard.Bootstrap = func(ctx context.Context, tx *sql.Tx) error {
		e.granted()
		defer e.wanted()
		return e.unlessDone(ctx, func(ctx context.Context) error { return execFile(ctx, tx, e.bootstrap, string(text)) })
	}
	return guard, nil
}

// copyFromStdin is a statement for which the driver would wait for ever.
var copyFromStdin = regexp.MustCompile(`(?im)^[ \t]*COPY\s[^;]*\sFROM\s+STDIN\b`)

func (e *ensurer) ensure(ctx context.Context, guard schemaguard.Guard) error {
	key := schemaguard.KeyFor(e.schema)
	migrateKey := schemaguard.MigrateKey(key)
	keys := []advisorylock.Key{key}
	if e.serialize {
		keys = append(keys, migrateKey)
	}
	if err := checkNesting(e.server.ID, e.what, keys...); err != nil {
		return err
	}
	if e.unless != "" {
		guard.UpToDate = func(ctx context.Context, _ *sql.DB) (bool, error) { return e.done(ctx) }
	}
	var migrate func(context.Context, *sql.DB) error
	if e.serialize {
		migrate = func(ctx context.Context, _ *sql.DB) error {
			if err := e.fence(ctx); err != nil {
				return err
			}
			return e.run(ctx, []advisorylock.Key{migrateKey})
		}
	}
	err := guard.Ensure(ctx, e.server.DB, e.schema, migrate)
	e.granted()
	if e.serialize && e.fences == nil && e.idle == "" {
		e.idle = e.once.name + " has run"
	}
	if isDenied(err) {
		return &exitError{code: exitOwn, err: fmt.Errorf("%w\n  to allow it: %s", err, e.grantSQL(ctx))}
	}
	return err
}
