// Package locks looks at the advisory locks of a server, and puts names to them.
package locks

import (
	"context"
	"database/sql"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

// The kinds of a lock.
const (
	Unknown = ""
	Named   = "lock"    // of bootlock run, or a Locker with a name
	Schema  = "schema"  // under which a schema is created
	Migrate = "migrate" // under which its migrations run
	Fence   = "fence"   // the gate for the fenced transactions of a lease

	number = "lease" // that of a lease, which goes with another lock, and is not shown
)

// Lock is one advisory lock that somebody has or waits for.
type Lock struct {
	Database string            `json:"database"`
	Key      *advisorylock.Key `json:"key,string"` // nil: one of the kind that has two integers
	ClassID  uint32            `json:"classid"`
	ObjID    uint32            `json:"objid"`
	Kind     string            `json:"kind,omitempty"`
	Name     string            `json:"name,omitempty"`
	Sessions []Session         `json:"sessions"` // holders first, then those who wait, the longest first

	of advisorylock.Key // the lock that a Fence goes with
}

// Session is one that has the lock, or waits for it.
type Session struct {
	advisorylock.Session
	Shared    bool    `json:"shared"`              // only other programs share locks
	Seconds   float64 `json:"seconds"`             // how long it has held the lock, or waited for it
	Terminate string  `json:"terminate,omitempty"` // how to end a holder
}

// Hidden reports whether the role may not see what sessions do.
func (l *Lock) Hidden() bool {
	return slices.ContainsFunc(l.Sessions, func(s Session) bool { return s.State == "" })
}

// Query says what to look for.
type Query struct {
	Names, Schemas []string
	Keys           []int64
	AllDatabases   bool
	Everything     bool // the locks that are not asked for by name, too
}

// Look returns the locks that are held or waited for, as far as q asks for them,
// and those that q names and that are free.
func Look(ctx context.Context, db *sql.DB, q Query) ([]*Lock, error) {
	known, err := q.known(ctx, db)
	if err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, lookSQL, q.AllDatabases)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var locks []*Lock
	for rows.Next() {
		l, s, err := scan(rows)
		if err != nil {
			return nil, err
		}
		locks = add(locks, l, s)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	identify(locks, known)
	return q.choose(locks), nil
}

// lookSQL qualifies its operators too: one of the same name on the search_path
// would be used instead. Where the role may not see a session, state is null.
const lookSQL = `
SELECT d.datname::pg_catalog.text, l.classid::pg_catalog.int8, l.objid::pg_catalog.int8, l.objsubid OPERATOR(pg_catalog.=) 1::pg_catalog.int2, COALESCE(l.pid, 0),
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
       COALESCE(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) a.xact_start), 0)::pg_catalog.float8,
       CASE WHEN l.granted AND a.wait_event_type OPERATOR(pg_catalog.=) 'Lock'
            THEN pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ', ')
            ELSE '' END
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) l.database
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'
  AND ($1::pg_catalog.bool OR d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
ORDER BY d.datname, l.objsubid, l.classid, l.objid, l.granted DESC, a.xact_start, l.pid`

func scan(rows *sql.Rows) (*Lock, Session, error) {
	l, s := &Lock{}, Session{}
	var bigint bool
	var since sql.NullTime
	err := rows.Scan(&l.Database, &l.ClassID, &l.ObjID, &bigint, &s.PID, &s.Application, &s.User, &s.Client, &s.State,
		&since, &s.Query, &s.Granted, &s.Shared, &s.Seconds, &s.BlockedBy)
	if err != nil {
		return nil, s, err
	}
	if bigint {
		key := advisorylock.Key(uint64(l.ClassID)<<32 | uint64(l.ObjID)) //nolint:gosec // the two halves of the bits
		l.Key = &key
	}
	s.Since = since.Time
	if s.Granted && s.PID != 0 { // a prepared transaction has none
		s.Terminate = s.TerminateSQL()
	}
	return l, s, nil
}

// add adds s to the last of locks if that is l, or else adds l: rows come sorted.
func add(locks []*Lock, l *Lock, s Session) []*Lock {
	if n := len(locks); n > 0 {
		last := locks[n-1]
		if last.Database == l.Database && last.ClassID == l.ClassID && last.ObjID == l.ObjID && (last.Key == nil) == (l.Key == nil) {
			last.Sessions = append(last.Sessions, s)
			return locks
		}
	}
	l.Sessions = []Session{s}
	return append(locks, l)
}

type meaning struct{ kind, name string }

type meanings map[advisorylock.Key]meaning

func (m meanings) addSchema(name string) {
	key := schemaguard.KeyFor(name)
	m[key] = meaning{Schema, name}
	m[schemaguard.MigrateKey(key)] = meaning{Migrate, name}
}

func (q Query) wanted() meanings {
	m := meanings{}
	for _, n := range q.Keys {
		key := advisorylock.Key(n)
		m[key] = meaning{Named, key.String()}
	}
	for _, schema := range q.Schemas {
		m.addSchema(schema)
	}
	for _, name := range q.Names {
		m[advisorylock.KeyOf(name)] = meaning{Named, name}
	}
	return m
}

// known adds the schemas of the database to those that q names.
func (q Query) known(ctx context.Context, db *sql.DB) (meanings, error) {
	m := q.wanted()
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
		m.addSchema(name)
	}
	return m, rows.Err()
}

var (
	// nameComment is what the statements of a lease begin with.
	nameComment = regexp.MustCompile(`^SELECT /\* bootlock: (.*?) \*/`)
	// createSchema tells of a schema that is not there yet.
	createSchema = regexp.MustCompile(`^CREATE SCHEMA IF NOT EXISTS "((?:[^"]|"")+)"`)
)

// identify finds out what locks are for: by their keys if those are known, else
// by what their sessions say in their statements.
//
// The number of a lease and the gates of its fence follow from the key of its lock.
func identify(locks []*Lock, known meanings) {
	said := known.learn(locks)
	for _, l := range locks {
		if l.Key == nil {
			continue
		}
		m, ok := known[*l.Key]
		if !ok {
			continue
		}
		l.Kind, l.Name = m.kind, m.name
		for _, s := range l.Sessions {
			if s.Granted {
				delete(said, s.PID) // it says that of this lock
			}
		}
	}
	f := fencesOf(locks, known)
	for _, l := range locks {
		if l.Key != nil && l.Kind == Unknown {
			l.guess(f, said)
		}
	}
	for _, l := range locks {
		if l.Kind == Fence {
			l.Name = nameOf(l.of, locks, known)
		}
	}
}

func (l *Lock) guess(f fences, said map[int]string) {
	if l.Kind, l.of = f.find(*l.Key); l.Kind != Unknown {
		return
	}
	for _, s := range l.Sessions {
		if name, ok := said[s.PID]; ok {
			l.Kind, l.Name = Named, name
		}
	}
}

// learn adds what the sessions say, and returns the name that each of them says, by
// its process.
func (m meanings) learn(locks []*Lock) (said map[int]string) {
	said = map[int]string{}
	for _, l := range locks {
		for _, s := range l.Sessions {
			if match := nameComment.FindStringSubmatch(s.Query); match != nil {
				name := match[1]
				said[s.PID] = name
				if _, ok := m[advisorylock.KeyOf(name)]; !ok {
					m[advisorylock.KeyOf(name)] = meaning{Named, name}
				}
				if l.Key != nil && *l.Key == schemaguard.MigrateKey(schemaguard.KeyFor(name)) {
					m.addSchema(name)
				}
			} else if match := createSchema.FindStringSubmatch(s.Query); match != nil {
				m.addSchema(strings.ReplaceAll(match[1], `""`, `"`))
			}
		}
	}
	return said
}

func nameOf(key advisorylock.Key, locks []*Lock, known meanings) string {
	if m, ok := known[key]; ok {
		return m.name
	}
	for _, l := range locks {
		if l.Key != nil && *l.Key == key && l.Name != "" {
			return l.Name
		}
	}
	return key.String()
}

// choose leaves out what was not asked for, and adds what was and is free.
func (q Query) choose(locks []*Lock) []*Lock {
	locks = slices.DeleteFunc(locks, func(l *Lock) bool { return l.Kind == number })
	asked := q.wanted()
	if len(asked) == 0 {
		return locks
	}
	free := maps.Clone(asked)
	locks = slices.DeleteFunc(locks, func(l *Lock) bool {
		if l.Key == nil {
			return !q.Everything
		}
		key := *l.Key
		delete(free, key)
		if l.Kind == Fence {
			key = l.of
		}
		_, ok := asked[key]
		return !ok && !q.Everything
	})
	for key, m := range free {
		locks = append(locks, &Lock{
			Key: &key, ClassID: uint32(uint64(key) >> 32), ObjID: uint32(uint64(key)), //nolint:gosec // the two halves of the bits
			Kind: m.kind, Name: m.name, Sessions: []Session{},
		})
	}
	slices.SortStableFunc(locks, func(a, b *Lock) int { return strings.Compare(a.Name+" "+a.Kind, b.Name+" "+b.Kind) })
	return locks
}
