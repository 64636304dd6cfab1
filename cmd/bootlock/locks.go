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

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/locks"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
)

type locker struct {
	names, schemas    []string
	keys              []int64
	all, allDatabases bool
	asJSON, watch     bool
	interval          time.Duration
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

With --watch they are shown again and again, on a terminal in place. Colour is
used on a terminal only, and not if NO_COLOR is set.`,
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
	cmd.Flags().StringArrayVar(&l.names, "lock", nil, "show this lock, held or not; can be repeated")
	cmd.Flags().Int64SliceVar(&l.keys, "key", nil, "show the lock with this key, held or not; can be repeated")
	cmd.Flags().Lookup("key").DefValue = ""
	cmd.Flags().StringArrayVar(&l.schemas, "schema", nil, "show the locks of this schema, held or not; can be repeated")
	cmd.Flags().BoolVar(&l.all, "all", false, "show all advisory locks of the database")
	cmd.Flags().BoolVar(&l.allDatabases, "all-databases", false, "show those of the other databases of the server too")
	cmd.Flags().BoolVar(&l.watch, "watch", false, "show them again and again, until interrupted")
	l.interval = time.Second
	duration(cmd.Flags(), &l.interval, "interval", "the time between two looks with --watch")
	cmd.Flags().BoolVar(&l.asJSON, "json", false, "as JSON: an array, with --watch one a line")
	return cmd
}

func (l *locker) query() locks.Query {
	q := locks.Query{Names: l.names, Schemas: l.schemas, AllDatabases: l.allDatabases, Everything: l.all}
	for _, key := range l.keys {
		q.Keys = append(q.Keys, advisorylock.Key(key))
	}
	return q
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
	show, end := l.printer(a, s.Address)
	defer end()
	for {
		found, err := locks.Look(ctx, s.DB, l.query())
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

// split tells the locks that are known to be bootlock's from the others. The
// numbers of leases are among neither: they go with a lock that is shown. With --all
// there are no others.
func (l *locker) split(found []*locks.Lock) (own, others []*locks.Lock) {
	for _, lock := range found {
		switch lock.Kind {
		case locks.Unknown:
			others = append(others, lock)
		case locks.Lease:
		default:
			own = append(own, lock)
		}
	}
	if l.all {
		return append(own, others...), nil
	}
	return own, others
}

// printer returns what shows the locks, and what is to be called at the end.
func (l *locker) printer(a *app, address string) (show func([]*locks.Lock) error, end func()) {
	switch terminal, ok := a.out.(*os.File); {
	case l.asJSON:
		return l.printJSON(a.out), func() {}
	case l.watch && ok && term.IsTerminal(int(terminal.Fd())):
		_, _ = terminal.WriteString(locks.Enter)
		return func(found []*locks.Lock) error { return l.draw(terminal, found, address) },
			func() { _, _ = terminal.WriteString(locks.Leave) }
	}
	return func(found []*locks.Lock) error {
		var b strings.Builder
		l.write(&b, found)
		if l.watch {
			b.WriteString("\n")
		}
		_, err := io.WriteString(a.out, b.String())
		return err
	}, func() {}
}

func (l *locker) printJSON(out io.Writer) func([]*locks.Lock) error {
	encoder := json.NewEncoder(out)
	if !l.watch {
		encoder.SetIndent("", "  ")
	}
	return func(found []*locks.Lock) error {
		own, _ := l.split(found)
		if own == nil {
			own = []*locks.Lock{}
		}
		return encoder.Encode(own)
	}
}

func (l *locker) draw(terminal *os.File, found []*locks.Lock, address string) error {
	screen := locks.Screen{Width: 80, Height: 24, Colour: os.Getenv("NO_COLOR") == "", Database: l.allDatabases}
	if width, height, err := term.GetSize(int(terminal.Fd())); err == nil && width > 20 && height > 4 {
		screen.Width, screen.Height = width, height
	}
	own, _ := l.split(found)
	_, err := terminal.WriteString(screen.Draw(own, "bootlock locks on "+address+", Ctrl-C ends", time.Now()))
	return err
}

func (l *locker) write(w io.Writer, found []*locks.Lock) {
	own, others := l.split(found)
	if l.watch {
		fmt.Fprintln(w, time.Now().Format(time.TimeOnly))
	}
	if len(own) == 0 {
		fmt.Fprintln(w, "Nobody holds a lock of bootlock in this database, or waits for one.")
	}
	for _, lock := range own {
		lock.Write(w, l.allDatabases)
	}
	if n := len(others); n > 0 {
		fmt.Fprintf(w, "%d advisory lock(s) of which it is not known whose they are: --all shows them.\n", n)
		if slices.ContainsFunc(others, (*locks.Lock).Hidden) {
			fmt.Fprintln(w, "Names that other roles gave are seen by members of pg_read_all_stats; --lock NAME looks for one.")
		}
	}
}
