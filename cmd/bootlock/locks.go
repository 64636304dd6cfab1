package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

type locker struct {
	names, schemas []string
	all, asJSON    bool
	watch          bool
	interval       time.Duration
}

// lock is one advisory lock that somebody has or waits for.
type lock struct {
	Key      *advisorylock.Key `json:"key,string"` // nil: one of the kind that has two integers
	ClassID  uint32            `json:"classid"`
	ObjID    uint32            `json:"objid"`
	Kind     string            `json:"kind,omitempty"` // "lock", "schema" or "migrate"; empty if it is not known
	Name     string            `json:"name,omitempty"`
	Sessions []session         `json:"sessions"`
}

type session struct {
	advisorylock.Session
	Terminate string        `json:"terminate,omitempty"` // how to end a holder
	For       time.Duration `json:"-"`                   // since Since, by the server's clock
}

func (a *app) locksCommand() *cobra.Command {
	l := &locker{}
	cmd := &cobra.Command{
		Use:   "locks",
		Short: "Who holds a lock, who waits for it, and how to end the holder",
		Long: `locks shows the locks of bootlock in this database: who holds them, who waits,
since when, and the SQL that would end the holder.

A lock is known by the name that its holder gives, by the schemas that are in
the database, and by the names that --lock and --schema give. --all shows the
advisory locks of other programs too.

What a role may not see of the sessions of others is left out: membership in
pg_read_all_stats helps. A session that waits is shown while it asks the server,
which it does again and again, with short pauses.`,
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
	cmd.Flags().StringArrayVar(&l.schemas, "schema", nil, "show the locks of this schema, held or not; can be repeated")
	cmd.Flags().BoolVar(&l.all, "all", false, "show all advisory locks of the database")
	cmd.Flags().BoolVar(&l.watch, "watch", false, "show them again and again, until interrupted")
	cmd.Flags().DurationVar(&l.interval, "interval", time.Second, "the time between two looks with --watch")
	cmd.Flags().BoolVar(&l.asJSON, "json", false, "as JSON: an array, with --watch one a line")
	return cmd
}

func (a *app) showLocks(parent context.Context, l *locker) error {
	ctx, _, stop := catchSignals(parent)
	defer stop()
	db, err := a.connect(ctx, "locks")
	if err != nil {
		return err
	}
	defer db.Close()
	show := l.printer(a)
	for {
		locks, err := l.look(ctx, db)
		switch {
		case err != nil && l.watch && ctx.Err() != nil:
			return nil
		case err != nil:
			return a.failure(ctx, err)
		}
		if err := show(locks); err != nil {
			return &exitError{exitOwn, err}
		}
		if !l.watch {
			return nil
		}
		select {
		case <-time.After(l.interval):
		case <-ctx.Done():
			return nil
		}
	}
}

// look asks for all advisory locks of this database, and puts names to them.
func (l *locker) look(ctx context.Context, db *sql.DB) ([]*lock, error) {
	schemas, err := schemas(ctx, db)
	if err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, locksSQL)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var locks []*lock
	for rows.Next() {
		var s session
		var class, obj uint32
		var bigint bool
		var since sql.NullTime
		var now time.Time
		err := rows.Scan(&class, &obj, &bigint, &s.PID, &s.Application, &s.User, &s.Client, &s.State, &since, &s.Query, &s.Granted, &s.Shared, &now)
		if err != nil {
			return nil, err
		}
		if since.Valid {
			s.Since, s.For = since.Time, now.Sub(since.Time)
		}
		if s.Granted {
			s.Terminate = s.TerminateSQL()
		}
		locks = add(locks, class, obj, bigint, s)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	known := l.wanted()
	for _, schema := range schemas {
		known.addSchema(schema)
	}
	for _, lock := range locks {
		lock.identify(known)
	}
	return l.choose(locks), nil
}

// locksSQL qualifies its operators too: one of the same name on the search_path
// would be used instead. Where the role may not see a session, state is null.
const locksSQL = `
SELECT l.classid::pg_catalog.int8, l.objid::pg_catalog.int8, l.objsubid OPERATOR(pg_catalog.=) 1::pg_catalog.int2, l.pid,
       COALESCE(a.application_name, ''),
       COALESCE(a.usename::pg_catalog.text, ''),
       CASE WHEN a.client_addr IS NOT NULL THEN pg_catalog.concat(pg_catalog.host(a.client_addr), ':', a.client_port)
            WHEN a.client_port OPERATOR(pg_catalog.<) 0 THEN 'local'
            ELSE '' END,
       COALESCE(a.state, ''),
       a.xact_start,
       CASE WHEN a.state IS NULL THEN '' ELSE a.query END,
       l.granted,
       l.mode OPERATOR(pg_catalog.=) 'ShareLock',
       pg_catalog.clock_timestamp()
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'
  AND l.database OPERATOR(pg_catalog.=) (
      SELECT d.oid FROM pg_catalog.pg_database d
      WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
ORDER BY l.objsubid, l.classid, l.objid, l.granted DESC, a.xact_start, l.pid`

// add adds s to the last of locks, or to a new one: the rows come sorted.
func add(locks []*lock, class, obj uint32, bigint bool, s session) []*lock {
	if n := len(locks); n > 0 {
		last := locks[n-1]
		if last.ClassID == class && last.ObjID == obj && (last.Key != nil) == bigint {
			last.Sessions = append(last.Sessions, s)
			return locks
		}
	}
	next := &lock{ClassID: class, ObjID: obj, Sessions: []session{s}}
	if bigint {
		key := advisorylock.Key(uint64(class)<<32 | uint64(obj))
		next.Key = &key
	}
	return append(locks, next)
}

func schemas(ctx context.Context, db *sql.DB) (names []string, err error) {
	rows, err := db.QueryContext(ctx, "SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// meaning is what a key stands for.
type meaning struct{ kind, name string }

type meanings map[advisorylock.Key]meaning

func (m meanings) addSchema(name string) {
	key := schemaguard.KeyFor(name)
	m[key] = meaning{"schema", name}
	m[schemaguard.MigrateKey(key)] = meaning{"migrate", name}
}

// wanted are the locks that the command line names.
func (l *locker) wanted() meanings {
	m := meanings{}
	for _, schema := range l.schemas {
		m.addSchema(schema)
	}
	for _, name := range l.names {
		m[advisorylock.KeyOf(name)] = meaning{"lock", name}
	}
	return m
}

var (
	// leaseComment is what the statements of a lease begin with.
	leaseComment = regexp.MustCompile(`^/\* bootlock: (.*?) \*/`)
	// createSchema tells of a schema that is not there yet.
	createSchema = regexp.MustCompile(`^CREATE SCHEMA IF NOT EXISTS "((?:[^"]|"")+)"`)
)

// identify finds out what a lock is for: by its key if that is known, else by
// what one of its sessions says in its statement.
func (l *lock) identify(known meanings) {
	if l.Key == nil {
		return
	}
	said := ""
	for _, s := range l.Sessions {
		if match := leaseComment.FindStringSubmatch(s.Query); match != nil {
			said = match[1]
		} else if match := createSchema.FindStringSubmatch(s.Query); match != nil {
			known.addSchema(strings.ReplaceAll(match[1], `""`, `"`))
		}
	}
	if m, ok := known[*l.Key]; ok {
		l.Kind, l.Name = m.kind, m.name
	} else if said != "" {
		l.Kind, l.Name = "lock", said
	}
}

// choose leaves out what was not asked for, and adds what was and is free.
func (l *locker) choose(locks []*lock) []*lock {
	wanted := l.wanted()
	if len(wanted) == 0 {
		return locks
	}
	locks = slices.DeleteFunc(locks, func(l *lock) bool {
		if l.Key == nil {
			return true
		}
		_, ok := wanted[*l.Key]
		delete(wanted, *l.Key)
		return !ok
	})
	for key, m := range wanted {
		locks = append(locks, &lock{Key: &key, ClassID: classID(key), ObjID: objID(key), Kind: m.kind, Name: m.name, Sessions: []session{}})
	}
	slices.SortFunc(locks, func(a, b *lock) int { return strings.Compare(a.Name+" "+a.Kind, b.Name+" "+b.Kind) })
	return locks
}

// split tells the locks that are known to be bootlock's from the others.
func split(locks []*lock) (own, others []*lock) {
	for _, l := range locks {
		if l.Kind == "" {
			others = append(others, l)
		} else {
			own = append(own, l)
		}
	}
	return own, others
}

// printer returns what shows the locks, in place on a terminal with --watch.
func (l *locker) printer(a *app) func([]*lock) error {
	if l.asJSON {
		encoder := json.NewEncoder(a.out)
		if !l.watch {
			encoder.SetIndent("", "  ")
		}
		return func(locks []*lock) error {
			own, others := split(locks)
			if l.all {
				own = append(own, others...)
			}
			if own == nil {
				own = []*lock{}
			}
			return encoder.Encode(own)
		}
	}
	return func(locks []*lock) error {
		var b strings.Builder
		l.write(&b, locks)
		text := b.String()
		switch {
		case l.watch && isTerminal(a.out):
			// Overwrite line by line: to clear the screen first would flicker.
			text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
		case l.watch:
			text += "\n"
		}
		_, err := io.WriteString(a.out, text)
		return err
	}
}

func (l *locker) write(w io.Writer, locks []*lock) {
	own, others := split(locks)
	if l.all {
		own, others = append(own, others...), nil
	}
	if l.watch {
		fmt.Fprintln(w, time.Now().Format(time.TimeOnly))
	}
	if len(own) == 0 {
		fmt.Fprintln(w, "Nobody holds a lock of bootlock in this database, or waits for one.")
	}
	for _, lock := range own {
		lock.write(w)
	}
	if n := len(others); n > 0 {
		fmt.Fprintf(w, "%d advisory lock(s) of which it is not known whose they are: --all shows them.\n", n)
	}
}

func (l *lock) write(w io.Writer) {
	switch {
	case l.Key == nil:
		fmt.Fprintf(w, "advisory lock (%d, %d)", int32(l.ClassID), int32(l.ObjID))
	case l.Kind == "":
		fmt.Fprintf(w, "advisory lock %d", *l.Key)
	default:
		fmt.Fprintf(w, "%s %s  key %d", l.Kind, l.Name, *l.Key)
	}
	fmt.Fprintf(w, "  classid %d  objid %d\n", l.ClassID, l.ObjID)
	if len(l.Sessions) == 0 {
		fmt.Fprintln(w, "  is free")
	}
	for _, s := range l.Sessions {
		s.write(w)
	}
}

func (s session) write(w io.Writer) {
	verb := "waits"
	if s.Granted {
		verb = "holds"
	}
	if s.Shared {
		verb += " shared"
	}
	since := ""
	if !s.Since.IsZero() {
		since = fmt.Sprintf(" for %v", s.For.Round(100*time.Millisecond))
	}
	fmt.Fprintf(w, "  %s%s: %v\n", verb, since, s.Session)
	if s.Query != "" {
		fmt.Fprintf(w, "    last statement: %s\n", oneLine(s.Query))
	}
	if s.Terminate != "" {
		fmt.Fprintf(w, "    to end it: %s;\n", s.Terminate)
	}
}

// oneLine is the beginning of a statement, fit for a terminal.
func oneLine(statement string) string {
	const room = 100
	words := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, statement)
	runes := []rune(strings.Join(strings.Fields(words), " "))
	if len(runes) > room {
		return string(runes[:room-1]) + "…"
	}
	return string(runes)
}
