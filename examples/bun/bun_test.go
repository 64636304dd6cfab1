package bun

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/test/pgtest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// By default bun marks a migration as applied before it runs it. Whoever asks
// MigrationsWithStatus would then be told, after the last one failed, that there
// is nothing left to do, and start on a schema that lacks it.
func TestFailedMigrationIsNotUpToDate(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("pgx", pgtest.Shared(t).NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE posts_user_id ()"); err != nil { // the last index's name
		t.Fatal(err)
	}
	if err := Migrate(t.Context(), db); err == nil {
		t.Fatal("the last migration succeeded; want it to fail")
	}
	if done, err := upToDate(t.Context(), db); done || err != nil {
		t.Errorf("got %v, %v; want it not to be up to date", done, err)
	}
	if _, err := db.ExecContext(t.Context(), "DROP TABLE posts_user_id"); err != nil {
		t.Fatal(err)
	}
	if err := Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if done, err := upToDate(t.Context(), db); !done || err != nil {
		t.Errorf("got %v, %v; want it to be up to date", done, err)
	}
}
