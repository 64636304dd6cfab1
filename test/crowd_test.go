//go:build unix

package test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A fleet may be larger than what the server or the pooler has connections. Waiters
// that sit on the very connections that the holder's migration needs keep it from ever
// being done, and so do holders of other locks.

// starters is a fleet within this program. Each of its processes is a pool of its
// own, every other one with the other driver, so that they have nothing but the
// server in common.
type starters struct {
	n        int
	dsn      string
	schema   string
	mode     string // Serialize, UpToDate or Once
	trace    *locktrace.Trace
	migrated atomic.Int32 // how many found something to do
}

// start has all of them start at once, on a schema that is not there.
func (s *starters) start(t *testing.T) {
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
	t.Logf("%s: all %d were ready after %v", s.mode, s.n, time.Since(began))
	if got := len(failed); got > 0 {
		t.Errorf("%s: got %d of %d that failed, one with %v; want none", s.mode, got, s.n, <-failed)
	}
	if got := s.migrated.Load(); got != 1 {
		t.Errorf("%s: %d migrated; want 1", s.mode, got)
	}
}

func (s *starters) guard() schemaguard.Guard {
	guard := schemaguard.Guard{Trace: s.trace}
	switch s.mode {
	case "UpToDate":
		guard.UpToDate = s.upToDate
	case "Once":
		guard.Once = "build 1"
	default:
		guard.Serialize = true
	}
	return guard
}

// startersSteps is how many short statements the migration has. Each may have to
// queue for a connection.
const startersSteps = 20

func (s *starters) upToDate(ctx context.Context, db *sql.DB) (done bool, err error) {
	return locktest.HasRows(fmt.Sprintf("SELECT FROM %s.done HAVING count(*) >= %d", s.schema, startersSteps))(ctx, db)
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
	for mode, size := range map[string]int{"Serialize": 2, "UpToDate": 4, "Once": 2} {
		t.Run(fmt.Sprintf("%s through %d", mode, size), func(t *testing.T) {
			db := newTestDB(t, pgtest.Shared(t))
			pooled := pgbouncer.New(t, pgtest.Shared(t), "transaction", size).DSN(db.dsn)
			fleet := starters{n: 40, dsn: pooled, schema: "app", mode: mode}
			fleet.start(t)
			db.holdsNoLock(t)
		})
	}
}

// Of 60 processes on 20 connections 41 died of 53300, sometimes the one that migrated
// among them.
func TestMoreProcessesThanConnections(t *testing.T) {
	const limit, processes = 20, 60
	shared := pgtest.Shared(t)
	for name, tc := range map[string]struct {
		mode  string
		limit func(t *testing.T) (db testDB, limited string)
	}{
		"a role's limit": {"UpToDate", func(t *testing.T) (testDB, string) { return limitedRole(t, shared, limit) }},
		"a database's limit": {"Once", func(t *testing.T) (testDB, string) {
			db, dsn := limitedRole(t, shared, -1)
			sqltest.Exec(t, db.admin, fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", db.name(t), limit))
			return db, dsn
		}},
		"max_connections": {"Serialize", func(t *testing.T) (testDB, string) {
			return limitedRole(t, ownServer(t, pgtest.Options{Settings: map[string]string{"max_connections": fmt.Sprint(limit)}}), -1)
		}},
		"max_client_conn of PgBouncer": {"Once", func(t *testing.T) (testDB, string) {
			db := newTestDB(t, shared)
			return db, pgbouncer.New(t, shared, "transaction", 4, fmt.Sprintf("max_client_conn = %d", limit)).DSN(db.dsn)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			db, limited := tc.limit(t)
			fleet := starters{n: processes, dsn: limited, schema: "app", mode: tc.mode}
			fleet.start(t)
			db.holdsNoLock(t)
		})
	}
}

// ownServer starts a server for this test alone.
func ownServer(t *testing.T, opts pgtest.Options) *pgtest.Server {
	t.Helper()
	if os.Getenv(pgtest.EnvDSN) != "" { // that server cannot be set up
		opts.Origin = pgtest.OriginLocal
	}
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

// limitedRole is a DSN of a database of server as a role that owns it and may have so
// many connections.
func limitedRole(t *testing.T, server *pgtest.Server, limit int) (db testDB, limited string) {
	t.Helper()
	role := server.NewRole(t)
	db = newTestDB(t, server)
	sqltest.Exec(t, db.admin, fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", quoted(role), limit))
	sqltest.Exec(t, db.admin, "ALTER DATABASE "+db.name(t)+" OWNER TO "+quoted(role))
	return db, pgtest.WithUser(db.dsn, role, pgtest.RolePassword)
}

// Services that start at once, each with a schema of its own, are all granted their
// locks at once, and the leases fill the connections that their own migrations need:
// none was ever ready, in silence. That is a cluster after a power cut.
func TestServicesWithALockEach(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		services int
		through  func(t *testing.T) (db testDB, dsn string)
	}{
		"12 through 4": {12, func(t *testing.T) (testDB, string) {
			db := newTestDB(t, pgtest.Shared(t))
			return db, pgbouncer.New(t, pgtest.Shared(t), "transaction", 4).DSN(db.dsn)
		}},
		"25 on a limit of 20": {25, func(t *testing.T) (testDB, string) { return limitedRole(t, pgtest.Shared(t), 20) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, dsn := tc.through(t)
			ctx, cancel := context.WithTimeout(t.Context(), 3*await.Limit)
			defer cancel()
			var all sync.WaitGroup
			for i := range tc.services {
				service := locktest.Pool(t, drivers[i%len(drivers)], dsn)
				all.Go(func() {
					fleet := starters{schema: fmt.Sprintf("service_%d", i), mode: "Serialize"}
					if err := fleet.guard().Ensure(ctx, service, fleet.schema, fleet.migrate); err != nil {
						t.Errorf("service %d: %v", i, err)
					}
					service.Close()
				})
			}
			all.Wait()
			db.holdsNoLock(t)
		})
	}
}

// Processes that await a migration must leave it a connection, also before anybody has come
// to migrate.
func TestAwaitLeavesAConnection(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		t.Parallel()
		db, limited := limitedRole(t, pgtest.Shared(t), 10)
		guard := schemaguard.Guard{Once: "build 1"}
		waiting := guard
		locker, lasting := locktest.Lasting(advisorylock.Locker{})
		waiting.Trace = locker.Trace
		var awaited []<-chan error
		for i := range 12 {
			worker := locktest.Pool(t, drivers[i%len(drivers)], limited)
			awaited = append(awaited, await.Go(func() error {
				defer worker.Close()
				return waiting.Await(t.Context(), worker, "app")
			}))
		}
		for range awaited {
			await.Value(t, lasting)
		}
		ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
		defer cancel()
		if err := guard.Ensure(ctx, locktest.Pool(t, driver, limited), "app", func(context.Context, *sql.DB) error { return nil }); err != nil {
			t.Errorf("the migrator: got %v; want nil", err)
		}
		for _, worker := range awaited {
			await.NoError(t, "a worker", worker)
		}
		db.holdsNoLock(t)
	})
}
