package start

import (
	"context"
	"database/sql"
	"io/fs"
	"os"
	"testing"
	"testing/fstest"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	_ "github.com/jackc/pgx/v5/stdlib"
)

func connect(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", os.Getenv("README_DSN"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	exec(t, db, "DROP SCHEMA IF EXISTS app CASCADE")
	return db
}

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

// Two starts of one build migrate once, and one of the next build once more.
func TestStartOnAServer(t *testing.T) {
	db := connect(t)
	migrated := 0
	start := func(migrations fs.FS) {
		t.Helper()
		err := Start(db, migrations, func(ctx context.Context, db *sql.DB) error {
			migrated++
			_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.t (x int)")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	build := fstest.MapFS{"1.sql": {Data: []byte("CREATE TABLE t (x int)")}}
	start(build)
	start(build)
	if migrated != 1 {
		t.Errorf("migrated %d times; want once", migrated)
	}
	build["2.sql"] = &fstest.MapFile{Data: []byte("CREATE INDEX ON t (x)")}
	start(build)
	if migrated != 2 {
		t.Errorf("migrated %d times; want once for each build", migrated)
	}
	exec(t, db, "INSERT INTO app.t VALUES (1)")
}

func TestOrder(t *testing.T) {
	db := connect(t)
	db.SetMaxOpenConns(1)
	var steps locktrace.Recorder
	guard := schemaguard.Guard{Trace: steps.Trace()}
	if err := guard.Ensure(context.Background(), db, "app", func(context.Context, *sql.DB) error { return nil }); err != nil {
		t.Error(err)
	}
	if got, want := steps.String(), os.Getenv("README_ORDER"); got != want {
		t.Errorf("the order is %q; the README says %q", got, want)
	}
}
