//go:build unix

package test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A fleet may be larger than what the server or the pooler has connections. Waiters
// that block on the very connections that the winner's migration needs keep it from
// ever being done, and waiters that open the last ones let each other, and the
// winner, die.

// startersModes are the ways in which a fleet starts.
var startersModes = []string{"Serialize", "UpToDate"}

// starters is a fleet within this program. Each of its processes is a pool of its
// own, every other one with the other driver, so that they have nothing but the
// server in common.
type starters struct {
	n        int
	dsn      string
	schema   string
	mode     string
	migrated atomic.Int32 // how many found something to do
}

// start has all of them start at once, on a schema that is not there, and returns how
// long it took until all were ready.
func (s *starters) start(t *testing.T) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*await.Limit) // a start is work, and a CI machine slow
	defer cancel()
	var all sync.WaitGroup
	begin, failed := make(chan struct{}), make(chan error, s.n)
	for i := range s.n {
		db, err := sql.Open(drivers[i%len(drivers)], s.dsn)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer db.Close()
			<-begin
			if err := s.guard().Ensure(ctx, db, s.schema, s.migrate); err != nil {
				failed <- err
			}
		})
	}
	began := time.Now()
	close(begin)
	all.Wait()
	took := time.Since(began)
	if got := len(failed); got > 0 {
		t.Errorf("%s: got %d of %d that failed, one with %v; want none", s.mode, got, s.n, <-failed)
	}
	if got := s.migrated.Load(); got != 1 {
		t.Errorf("%s: %d migrated; want 1", s.mode, got)
	}
	return took
}

func (s *starters) guard() schemaguard.Guard {
	if s.mode == "UpToDate" {
		return schemaguard.Guard{UpToDate: s.upToDate}
	}
	return schemaguard.Guard{Serialize: true}
}

// startersSteps is how many short statements the migration has. Each may have to
// queue for a connection.
const startersSteps = 20

func (s *starters) upToDate(ctx context.Context, db *sql.DB) (done bool, err error) {
	// Without a query, which would be the driver's prepared statement, and the pooler's trouble.
	res, err := db.ExecContext(ctx, fmt.Sprintf("SELECT FROM %s.done HAVING count(*) >= %d", s.schema, startersSteps))
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func (s *starters) migrate(ctx context.Context, db *sql.DB) error {
	if done, err := s.upToDate(ctx, db); err == nil && done {
		return nil
	}
	s.migrated.Add(1)
	if _, err := db.ExecContext(ctx, "CREATE TABLE "+s.schema+".done (step int)"); err != nil {
		return err
	}
	for step := range startersSteps {
		if _, err := db.ExecContext(ctx, fmt.Sprintf("INSERT INTO %s.done VALUES (%d)", s.schema, step)); err != nil {
			return err
		}
	}
	return nil
}

// Three waiters that each blocked on one of four connections of the pooler made every
// statement of the winner's migration queue behind all other waiters: 40 processes were
// not ready after four minutes.
func TestMoreProcessesThanPooledConnections(t *testing.T) {
	for _, size := range []int{2, 3, 4} {
		for _, mode := range startersModes {
			t.Run(fmt.Sprintf("%s through %d", mode, size), func(t *testing.T) {
				db := newTestDB(t, pgtest.Shared(t))
				pooled := pgbouncer.New(t, pgtest.Shared(t), "transaction", size).DSN(db.dsn)
				fleet := starters{n: 40, dsn: pooled, schema: "app", mode: mode}
				t.Logf("all %d were ready after %v", fleet.n, fleet.start(t))
				db.holdsNoLock(t)
			})
		}
	}
}

// Of 60 processes on 20 connections 41 died of 53300, sometimes the one that migrated
// among them.
func TestMoreProcessesThanConnections(t *testing.T) {
	const limit, processes = 20, 60
	shared := func(t *testing.T) *pgtest.Server { return pgtest.Shared(t) }
	for name, way := range map[string]struct {
		server func(t *testing.T) *pgtest.Server
		limit  func(t *testing.T, db testDB, role, dsn string) (limited string)
	}{
		"a role's limit": {shared, func(t *testing.T, db testDB, role, dsn string) string {
			sqltest.Exec(t, db.admin, fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", quoted(role), limit))
			return dsn
		}},
		"a database's limit": {shared, func(t *testing.T, db testDB, _, dsn string) string {
			name := sqltest.Ask[string](t, db.admin, "SELECT current_database()")
			sqltest.Exec(t, db.admin, fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", quoted(name), limit))
			return dsn
		}},
		"max_connections": {
			func(t *testing.T) *pgtest.Server {
				return ownServer(t, pgtest.Options{Settings: map[string]string{"max_connections": fmt.Sprint(limit)}})
			},
			func(_ *testing.T, _ testDB, _, dsn string) string { return dsn },
		},
		"max_client_conn of PgBouncer": {shared, func(t *testing.T, db testDB, _, _ string) string {
			return pgbouncer.New(t, pgtest.Shared(t), "transaction", 4, fmt.Sprintf("max_client_conn = %d", limit)).DSN(db.dsn)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, mode := range startersModes {
				t.Run(mode, func(t *testing.T) {
					server := way.server(t)
					role := server.NewRole(t)
					db := newTestDB(t, server)
					sqltest.Exec(t, db.admin, "ALTER DATABASE "+quoted(sqltest.Ask[string](t, db.admin, "SELECT current_database()"))+" OWNER TO "+quoted(role))
					limited := way.limit(t, db, role, pgtest.WithUser(db.dsn, role, pgtest.RolePassword))
					fleet := starters{n: processes, dsn: limited, schema: "app", mode: mode}
					t.Logf("all %d were ready after %v", fleet.n, fleet.start(t))
					db.holdsNoLock(t)
				})
			}
		})
	}
}

// ownServer starts a server for this test alone.
func ownServer(t *testing.T, opts pgtest.Options) *pgtest.Server {
	t.Helper()
	server, err := pgtest.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// Where connections are short, those who wait close theirs between two asks, but for
// the three that have waited longest: they stay in the server's queue, and have the
// lock as soon as it is free. Where hardly a connection is left, they do not.
func TestWhoStaysWhereConnectionsAreShort(t *testing.T) {
	t.Parallel()
	const limit = 20
	for name, tc := range map[string]struct {
		taken int
		check func(t *testing.T, db testDB, role string, taken int)
	}{
		"four are left": {15, func(t *testing.T, db testDB, role string, _ int) {
			blocked := "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE usename = '" + role + "' AND wait_event = 'advisory' AND query ~ '^/. bootlock: %s ms'"
			ask := func(waited string) int { return sqltest.Ask[int](t, db.admin, fmt.Sprintf(blocked, waited)) }
			var first, later int
			await.True(t, "a look around", func() bool { first = ask(`\d+`); return first != 0 })
			await.True(t, "a few bursts", func() bool { later = ask(`[3-9]\d{3}`); return later != 0 })
			if first != later {
				t.Errorf("got process %d after process %d; want the same", later, first)
			}
		}},
		"one is left": {18, func(t *testing.T, db testDB, role string, taken int) {
			await.True(t, "the waiter to leave", func() bool {
				return sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'") == taken
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachDriver(t, func(t *testing.T, driver string) {
				db, role := newTestDB(t, pgtest.Shared(t)), pgtest.Shared(t).NewRole(t)
				sqltest.Exec(t, db.admin, fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", quoted(role), limit))
				dsn := pgtest.WithUser(db.dsn, role, pgtest.RolePassword)
				for range tc.taken {
					sqltest.Exec(t, pool(t, driver, dsn), "SELECT 1")
				}
				waiter := pool(t, driver, dsn)
				var granted <-chan error
				err := advisorylock.Hold(t.Context(), pool(t, otherThan(driver), db.dsn), leaseKey, func(context.Context) error {
					granted = await.Go(func() error { return waitFor["Hold"](t.Context(), advisorylock.Locker{}, waiter, leaseKey) })
					tc.check(t, db, role, tc.taken)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if err := await.Value(t, granted); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
