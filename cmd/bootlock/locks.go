package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/locks"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
)

type locker struct {
	locks.Query
	asJSON, watch bool
	interval      time.Duration
}

func (a *app) locksCommand() *cobra.Command {
	l := &locker{}
	cmd := &cobra.Command{
		Use:   "locks",
		Short: "Who holds a lock, who waits for it, and how to end the holder",
		Long: `locks shows the locks of bootlock in this database: who holds them, who waits,
for how long, and the SQL that would end the holder. Holders come first, then
those who wait, the longest first.

A lock is known by the name that its holder gives, by the schemas that are in
the database, and by the names that --lock and --schema give. A lease gives the first
30 characters of a name. The fence of a lock
is shown while a fenced transaction is in it; the next holder waits for its end.
--all shows the advisory locks of other programs too, and --all-databases those of the whole
server; an advisory lock belongs to one database.

What a role may not see of the sessions of others is left out: membership in
pg_read_all_stats helps. A process that waits is shown only while it stands in the
server's queue, where it stays for a second at a time, and for how long it has this time.
Through a pooler, and where connections are short, it polls instead.

With --watch they are shown again and again, on a terminal in place.`,
		Example: `  bootlock locks
  bootlock locks --lock nightly --schema app
  bootlock locks --all --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.interval <= 0 {
				return usage("--interval must be more than zero")
			}
			return a.showLocks(cmd.Context(), l)
		},
	}
	cmd.Flags().StringArrayVar(&l.Names, "lock", nil, "show this lock, held or not; can be repeated")
	cmd.Flags().Int64SliceVar(&l.Keys, "key", nil, "show the lock with this key, held or not; can be repeated")
	cmd.Flags().Lookup("key").DefValue = ""
	cmd.Flags().StringArrayVar(&l.Schemas, "schema", nil, "show the locks of this schema, held or not; can be repeated")
	cmd.Flags().BoolVar(&l.Everything, "all", false, "show all advisory locks of the database")
	cmd.Flags().BoolVar(&l.AllDatabases, "all-databases", false, "show those of the other databases of the server too")
	cmd.Flags().BoolVar(&l.watch, "watch", false, "show them again and again, until interrupted")
	l.interval = time.Second
	duration(cmd.Flags(), &l.interval, "interval", "the time between two looks with --watch")
	cmd.Flags().BoolVar(&l.asJSON, "json", false, "as JSON: an array, with --watch one a line")
	return cmd
}

func (a *app) showLocks(parent context.Context, l *locker) error {
	ctx, _, stop := signals.Catch(parent)
	defer stop()
	s, err := a.connect(ctx, "locks")
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // nothing was changed
	a.warnOfStandby(ctx, s.DB)
	show, end := l.printer(a.out)
	defer end()
	for {
		found, err := locks.Look(ctx, s.DB, l.Query)
		switch {
		case l.watch && ctx.Err() != nil:
			return nil
		case err != nil:
			return a.failure(ctx, err)
		}
		if err := show(found); err != nil {
			return &exitError{code: exitOwn, err: err}
		}
		if !l.watch {
			return nil
		}
		select {
		case <-time.After(l.interval):
		case <-ctx.Done():
		}
	}
}

func (a *app) warnOfStandby(ctx context.Context, db *sql.DB) {
	var standby bool
	if db.QueryRowContext(ctx, "SELECT pg_catalog.pg_is_in_recovery()").Scan(&standby) == nil && standby {
		a.log.say("this is a standby: its locks are not those of the primary", "standby")
	}
}

// split tells the locks that are known to be bootlock's from the others. With --all
// there are no others.
func (l *locker) split(found []*locks.Lock) (own, others []*locks.Lock) {
	own = []*locks.Lock{} // a list in JSON
	for _, lock := range found {
		if lock.Kind == locks.Unknown {
			others = append(others, lock)
		} else {
			own = append(own, lock)
		}
	}
	if l.Everything {
		return append(own, others...), nil
	}
	return own, others
}

// printer returns what shows the locks, and what is to be called at the end.
func (l *locker) printer(out io.Writer) (show func([]*locks.Lock) error, end func()) {
	encoder := json.NewEncoder(out)
	if !l.watch {
		encoder.SetIndent("", "  ")
	}
	switch terminal, ok := out.(*os.File); {
	case l.asJSON:
		return func(found []*locks.Lock) error {
			own, _ := l.split(found)
			return encoder.Encode(own)
		}, func() {}
	case l.watch && ok && term.IsTerminal(int(terminal.Fd())):
		_, _ = terminal.WriteString(locks.Enter)
		return func(found []*locks.Lock) error {
			width, height, err := term.GetSize(int(terminal.Fd()))
			if err != nil || width <= 20 || height <= 4 {
				width, height = 80, 24
			}
			_, err = terminal.WriteString(locks.Fit(l.text(found), width, height))
			return err
		}, func() { _, _ = terminal.WriteString(locks.Leave) }
	}
	return func(found []*locks.Lock) error {
		_, err := io.WriteString(out, l.text(found))
		return err
	}, func() {}
}

func (l *locker) text(found []*locks.Lock) string {
	var b strings.Builder
	own, others := l.split(found)
	if l.watch {
		fmt.Fprintf(&b, "\n%s\n", time.Now().Format(time.TimeOnly))
	}
	if len(own) == 0 {
		b.WriteString("Nobody holds a lock of bootlock in this database, or waits for one.\n")
	}
	for _, lock := range own {
		lock.Write(&b, l.AllDatabases)
	}
	if n := len(others); n > 0 {
		fmt.Fprintf(&b, "%d advisory lock(s) of which it is not known whose they are: --all shows them.\n", n)
		if slices.ContainsFunc(others, (*locks.Lock).Hidden) {
			b.WriteString("Names that other roles gave are seen by members of pg_read_all_stats; --lock NAME looks for one.\n")
		}
	}
	return b.String()
}
