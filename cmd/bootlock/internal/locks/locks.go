// Package locks looks at the advisory locks of a server, and puts names to them.
package locks

import (
	"context"
	"database/sql"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

// The kinds of a lock.
const (
	Unknown = ""
	Named   = "lock"    // of bootlock run, or a Locker with a name
	Schema  = "schema"  // under which a schema is created
	Migrate = "migrate" // under which its migrations run
	Lease   = "lease"   // the number of a lease, which goes with another lock
	Fence   = "fence"   // the gate for the fenced transactions of a lease
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

	of advisorylock.Key // the lock that a Lease or a Fence goes with, where its key says so
}

// Session is one that has the lock, or waits for it.
type Session struct {
	advisorylock.Session
	Seconds   float64 `json:"seconds"`             // how long it has held the lock, or waited for it
	Terminate string  `json:"terminate,omitempty"` // how to end a holder
}

// For is how long the session has held the lock, or waited for it.
func (s Session) For() time.Duration { return time.Duration(s.Seconds * float64(time.Second)) }

// Query says what to look for.
type Query struct {
	Names, Schemas []string
	Keys           []advisorylock.Key
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
	for _, l := range locks {
		slices.SortStableFunc(l.Sessions, byTurn)
	}
	return q.choose(locks), nil
}

// lookSQL qualifies its operators too: one of the same name on the search_path
// would be used instead. Where the role may not see a session, state is null.
const lookSQL = `
SELECT d.datname::pg_catalog.text, l.classid::pg_catalog.int8, l.objid::pg_catalog.int8, l.objsubid OPERATOR(pg_catalog.=) 1::pg_catalog.int2, l.pid,
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
       COALESCE(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) a.query_start), 0)::pg_catalog.float8
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) l.database
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'
  AND ($1::pg_catalog.bool OR d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
ORDER BY d.datname, l.objsubid, l.classid, l.objid, l.pid`

func scan(rows *sql.Rows) (*Lock, Session, error) {
	l, s := &Lock{}, Session{}
	var bigint bool
	var since sql.NullTime
	var inTransaction, inStatement float64
	err := rows.Scan(&l.Database, &l.ClassID, &l.ObjID, &bigint, &s.PID, &s.Application, &s.User, &s.Client, &s.State,
		&since, &s.Query, &s.Granted, &s.Shared, &inTransaction, &inStatement)
	if err != nil {
		return nil, s, err
	}
	if bigint {
		key := advisorylock.Key(uint64(l.ClassID)<<32 | uint64(l.ObjID)) //nolint:gosec // the two halves of the bits
		l.Key = &key
	}
	s.Since, s.Seconds = since.Time, inTransaction
	if s.Granted {
		s.Terminate = s.TerminateSQL()
	} else if waited, ok := waited(s.Query, inStatement); ok {
		s.Seconds = waited
		s.Since = time.Now().Add(-s.For())
	}
	return l, s, nil
}

// waited is how long a session has waited for a lock that says so in its
// statement: its transaction is only the last of many.
func waited(query string, inStatement float64) (seconds float64, ok bool) {
	match := waitComment.FindStringSubmatch(query)
	if match == nil {
		return 0, false
	}
	before, err := strconv.ParseFloat(match[1], 64)
	return before/1000 + inStatement, err == nil
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

func byTurn(a, b Session) int {
	switch {
	case a.Granted && !b.Granted:
		return -1
	case b.Granted && !a.Granted, a.Seconds < b.Seconds:
		return 1
	case a.Seconds > b.Seconds:
		return -1
	}
	return 0
}

// meaning is what a key stands for.
type meaning struct{ kind, name string }

type meanings map[advisorylock.Key]meaning

func (m meanings) addSchema(name string) {
	key := schemaguard.KeyFor(name)
	m[key] = meaning{Schema, name}
	m[schemaguard.MigrateKey(key)] = meaning{Migrate, name}
}

// wanted are the locks that q names.
func (q Query) wanted() meanings {
	m := meanings{}
	for _, key := range q.Keys {
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
	// waitComment is what the statement of a waiter begins with: how long it had
	// waited when the statement was sent.
	waitComment = regexp.MustCompile(`^/\* bootlock: (\d+) ms for -?\d+, (?:shared|exclusive) \*/ ?`)
	// nameComment is what the statements of a lease begin with, after that.
	nameComment = regexp.MustCompile(`^/\* bootlock: (.*?) \*/`)
	// createSchema tells of a schema that is not there yet.
	createSchema = regexp.MustCompile(`^CREATE SCHEMA IF NOT EXISTS "((?:[^"]|"")+)"`)
)

// identify finds out what locks are for: by their keys if those are known, else
// by what their sessions say in their statements.
//
// The number of a lease and the gates of its fence follow from the key of its lock.
func identify(locks []*Lock, known meanings) {
	said := map[int]string{} // what a session says, by its process
	for _, l := range locks {
		for _, s := range l.Sessions {
			if match := nameComment.FindStringSubmatch(waitComment.ReplaceAllString(s.Query, "")); match != nil {
				said[s.PID] = match[1]
				name := advisorylock.KeyOf(match[1])
				if _, ok := known[name]; !ok {
					known[name] = meaning{Named, match[1]}
				}
				if key := schemaguard.MigrateKey(schemaguard.KeyFor(match[1])); l.Key != nil && *l.Key == key {
					known.addSchema(match[1])
				}
			} else if match := createSchema.FindStringSubmatch(s.Query); match != nil {
				known.addSchema(strings.ReplaceAll(match[1], `""`, `"`))
			}
		}
	}
	has := map[int]bool{} // the sessions that hold a lock that is known
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
			has[s.PID] = has[s.PID] || s.Granted
		}
	}
	f := fencesOf(locks, known)
	for _, l := range locks {
		if l.Key != nil && l.Kind == Unknown {
			l.Kind, l.of = f.find(*l.Key)
		}
	}
	for _, l := range locks {
		if l.Key == nil || l.Kind != Unknown {
			continue
		}
		for _, s := range l.Sessions {
			if name, ok := said[s.PID]; ok && !has[s.PID] {
				l.Kind, l.Name = Named, name
			}
		}
	}
	for _, l := range locks {
		if l.Kind == Fence || l.Kind == Lease {
			l.Name = nameOf(l.of, locks, known)
		}
	}
}

// nameOf is the name of a lock, or its key.
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
