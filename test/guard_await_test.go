//go:build unix

package test

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/replica"
	"github.com/bootlock/bootlock/test/sqltest"
)

// awaited knows from the catalog whether the migration is done, for which no
// right is needed.
var awaited = schemaguard.Guard{
	UpToDate: locktest.HasRows("SELECT FROM pg_catalog.pg_tables WHERE schemaname = 'app' AND tablename = 'last'"),
}

// createLast ends with what a worker of Once needs.
func createLast(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE app.last (); GRANT USAGE ON SCHEMA app TO PUBLIC")
	return err
}

// Workers that start before the migration, and others that start while it runs,
// wait for it, on pools of one connection.
func TestAwait(t *testing.T) {
	t.Parallel()
	t.Run("with the right to connect and no other", func(t *testing.T) {
		t.Parallel()
		role := pgtest.Shared(t).NewRole(t)
		dsn := pgtest.Shared(t).NewDB(t)
		sqltest.Exec(t, sqltest.Open(t, "pgx", dsn), "DO $$ BEGIN "+
			"EXECUTE format('REVOKE ALL ON DATABASE %I FROM public', current_database()); "+
			"EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), '"+role+"'); END $$")
		awaitMigration(t, dsn, pgtest.WithUser(dsn, role, pgtest.RolePassword))
	})
	t.Run("on a standby", func(t *testing.T) {
		t.Parallel()
		primary, standby := replica.NewFiles(t).Start(t)
		awaitMigration(t, primary.DSN(), standby.DSN())
	})
}

func awaitMigration(t *testing.T, migrator, worker string) {
	t.Helper()
	for name, guard := range map[string]schemaguard.Guard{"UpToDate": awaited, "Once": {Once: "build 1"}} {
		sqltest.Exec(t, sqltest.Open(t, "pgx", migrator), "DROP SCHEMA IF EXISTS app CASCADE")
		t.Run(name, func(t *testing.T) { awaitGuard(t, guard, migrator, worker) })
	}
}

func awaitGuard(t *testing.T, guard schemaguard.Guard, migrator, worker string) {
	const workers = 20
	var migrated atomic.Bool
	begun := make(chan struct{})
	var ended sync.WaitGroup
	for i := range workers {
		db := locktest.Pool(t, drivers[i%2], worker)
		db.SetMaxOpenConns(1)
		ended.Go(func() {
			if i >= workers/2 {
				<-begun
			}
			if err := guard.Await(t.Context(), db, "app"); err != nil {
				t.Errorf("worker %d: %v", i, err)
			} else if !migrated.Load() {
				t.Errorf("worker %d went on before the migration was done", i)
			}
		})
	}
	err := guard.Ensure(t.Context(), locktest.Pool(t, "pgx", migrator), "app", func(ctx context.Context, db *sql.DB) error {
		close(begun)
		if _, err := db.ExecContext(ctx, "SELECT pg_sleep(0.5)"); err != nil {
			return err
		}
		migrated.Store(true)
		return createLast(ctx, db)
	})
	if err != nil {
		t.Error(err)
	}
	ended.Wait()
}
