// Package server connects to a database, and makes sure that a lock there is a
// lock: that it is the primary, and that it keeps what it grants.
package server

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

// attemptTime bounds one attempt to connect, if connect_timeout does not.
const attemptTime = 10 * time.Second

var (
	// ErrStandby says that a lock here would exclude nobody.
	ErrStandby = errors.New("it is a standby, where a lock excludes nobody on the primary: name the primary, or all servers in one DSN (host=a,b)")

	// ErrNoLock says that the server, or what stands in front of it, grants
	// locks and does not keep them.
	ErrNoLock = errors.New("locks are granted here, and not kept: see bootlock doctor")

	// ErrSilent says that there was no answer until the context ended.
	ErrSilent = errors.New("no answer")
)

// Server is a database that answers.
type Server struct {
	DB      *sql.DB
	Address string // for people
	ID      string // tells this database from others, since locks are per database

	config *pgx.ConnConfig
	drop   func(err error) bool // what the server does not know in config
	held   []uint32             // the server processes of the locks, see RememberLocks

	mu   sync.Mutex
	open []*pgconn.PgConn
}

// Open makes a pool. With locks it takes nothing for a server but a primary: of
// several hosts the first that is one. dropped is told what Await leaves out of
// config because the server refuses it. Nothing is sent.
func Open(config *dsn.Config, locks bool, dropped func([]string)) *Server {
	s := &Server{Address: config.Address(), config: config.ConnConfig}
	s.drop = func(err error) bool {
		names := config.Drop(err)
		if len(names) > 0 {
			dropped(names)
		}
		return len(names) > 0
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = attemptTime
	}
	// Works through every pooler, and leaves no statement behind.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	if locks {
		// Whatever target_session_attrs says, since a lock on a standby is none;
		// and for each connection, since a standby may be what a name or an
		// address leads to after a failover.
		config.ValidateConnect = primary
	}
	config.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open = append(slices.DeleteFunc(s.open, closed), conn)
		return nil
	}
	s.DB = stdlib.OpenDB(*config.ConnConfig)
	return s
}

func closed(conn *pgconn.PgConn) bool {
	select {
	case <-conn.CleanupDone():
		return true
	default:
		return false
	}
}

// primary refuses a standby. From PostgreSQL 14 on a server says by itself what
// it is; through a pooler it does not.
func primary(ctx context.Context, conn *pgconn.PgConn) error {
	standby := conn.ParameterStatus("in_hot_standby") == "on"
	if conn.ParameterStatus("in_hot_standby") == "" {
		results, err := conn.Exec(ctx, "SELECT pg_catalog.pg_is_in_recovery()").ReadAll()
		if err != nil {
			return err
		}
		standby = one(results, 0) == "t"
	}
	if standby {
		return ErrStandby
	}
	return nil
}

// one is the value in the first row of the given result.
func one(results []*pgconn.Result, i int) string {
	if i >= len(results) || len(results[i].Rows) == 0 || len(results[i].Rows[0]) == 0 {
		return ""
	}
	return string(results[i].Rows[0][0])
}

// Prove takes a lock that nobody else uses, looks whether the server knows of it
// while it is held, and learns the server's ID. The error is [ErrNoLock] if it
// does not.
//
// A server that only looks like PostgreSQL, or a pooler that answers by itself,
// would let everybody in at once.
func (s *Server) Prove(ctx context.Context) error {
	conn, err := s.DB.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	key := rand.Uint64()
	proof := fmt.Sprintf(`SELECT pg_catalog.pg_advisory_xact_lock_shared((%d)::pg_catalog.int8);
SELECT pg_catalog.concat((
  SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks l
  WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
    AND l.classid OPERATOR(pg_catalog.=) %d::pg_catalog.oid AND l.objid OPERATOR(pg_catalog.=) %d::pg_catalog.oid
))`, int64(key), uint32(key>>32), uint32(key)) //nolint:gosec // the two halves of the bits
	const id = `;
SELECT pg_catalog.concat(EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time()), '/',
  (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()))`
	var results []*pgconn.Result
	err = conn.Raw(func(driverConn any) error {
		var err error
		results, err = driverConn.(*stdlib.Conn).Conn().PgConn().Exec(ctx, proof+id).ReadAll()
		return err
	})
	if err != nil {
		return err
	}
	s.ID = one(results, 2)
	if one(results, 1) != "1" {
		return ErrNoLock
	}
	return nil
}

// Patience says how long Await tries.
type Patience struct {
	Server time.Duration // for a server, or a database, that is not there yet
	Room   time.Duration // for a connection while all are in use
}

// Forever is as long as its context lasts.
const Forever time.Duration = 1<<63 - 1

// Await returns when the server answers. While it may come up, or has no free
// connection, Await tries again; waiting is called before each pause, with what
// is in the way.
func (s *Server) Await(ctx context.Context, p Patience, waiting func(err error)) error {
	begun := time.Now()
	var last error // but that of the end of ctx
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := s.DB.PingContext(ctx)
		if err == nil {
			return nil
		}
		waited := time.Since(begun)
		if ctx.Err() != nil {
			return &UnreachableError{Server: s.Address, Waited: waited, Err: cmp.Or(last, ErrSilent)}
		}
		if s.drop(err) {
			continue
		}
		last = err
		limit := time.Duration(0)
		if full(err) {
			limit = max(p.Server, p.Room)
			// What becomes free is for the holder of the lock, and not for more
			// waiters; and these should not all come at once.
			pause = max(pause, 400*time.Millisecond)
			pause += rand.N(pause) //nolint:gosec // not a secret
		} else if notYetUp(err) {
			limit = p.Server
		}
		if waited >= limit {
			return &UnreachableError{Server: s.Address, Waited: waited, Err: err}
		}
		waiting(err)
		select {
		case <-time.After(min(pause, limit-waited)):
		case <-ctx.Done():
		}
	}
}

// MayPass reports whether err, of a connect or of a session, may go away.
func MayPass(err error) bool { return err != nil && (full(err) || notYetUp(err)) }

// full reports whether err may go away when somebody else disconnects.
func full(err error) bool { return sqlstate.Of(err) == "53300" }

// notYetUp reports whether err may go away when the server has started, its
// database was made, or a standby was promoted. An answer such as a wrong
// password does not.
func notYetUp(err error) bool {
	code := sqlstate.Of(err)
	return code == "" || code == "3D000" || sqlstate.Lost(err)
}

// UnreachableError is a server that did not answer, or did not let us in.
type UnreachableError struct {
	Server string
	Waited time.Duration
	Err    error
}

func (e *UnreachableError) Error() string {
	if errors.Is(e.Err, ErrStandby) {
		return fmt.Sprintf("cannot lock on the server at %s: %v", e.Server, ErrStandby)
	}
	if full(e.Err) {
		return fmt.Sprintf("the server has no connection left: %v", e.Err)
	}
	if sqlstate.Of(e.Err) != "" {
		return fmt.Sprintf("the server refused the connection: %v", e.Err)
	}
	after := ""
	if e.Waited > time.Second {
		after = fmt.Sprintf(" in %v", e.Waited.Round(time.Second))
	}
	return fmt.Sprintf("the server could not be reached%s: %v", after, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Close closes all connections.
func (s *Server) Close() error { return s.DB.Close() }

const (
	// lingerTime bounds the attempt of Linger to connect.
	lingerTime = 2 * time.Second

	// seenTime is for how long its session can be seen at least.
	seenTime = 250 * time.Millisecond
)

// RememberLocks is called when all locks are held. It closes the idle connections, of
// which each would be one less for COMMAND, and remembers the server processes of the
// others for [Server.Linger].
func (s *Server) RememberLocks() {
	s.DB.SetMaxIdleConns(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, closed)
	for _, conn := range s.open {
		s.held = append(s.held, conn.PID())
	}
}

// Linger connects once more, after a lock was lost, under the given name and
// until this process ends: bootlock end can then see that the command is not gone
// yet. The session's last statement has the numbers of the
// server processes that had the locks, since the holder may have another name. It
// returns when it could be seen, or cannot connect.
func (s *Server) Linger(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), lingerTime)
	defer cancel()
	config := s.config.Copy()
	config.RuntimeParams["application_name"] = name
	conn, err := pgx.ConnectConfig(ctx, config) // its end is that of the process
	if err != nil {
		return
	}
	said := "SELECT"
	for _, pid := range s.held {
		said += " /* " + Ending(pid) + " */"
	}
	if _, err = conn.Exec(ctx, said); err == nil {
		time.Sleep(seenTime)
	}
}

// Ending is in the last statement of the session of Linger, if a server process that
// had a lock is pid.
func Ending(pid uint32) string { return fmt.Sprintf("bootlock: ending after pid %d;", pid) }
