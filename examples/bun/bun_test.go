package bun

import (
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// By default bun marks a migration as applied before it runs it. After the last one
// failed, MigrationsWithStatus would then say that there is nothing left to do.
func TestFailedMigrationIsNotUpToDate(t *testing.T) {
	t.Parallel()
	db := sqltest.Open(t, "pgx", pgtest.Shared(t).NewDB(t))
	sqltest.Exec(t, db, "CREATE TABLE posts_user_id ()") // the last index's name
	if err := Migrate(t.Context(), db); err == nil {
		t.Fatal("the last migration succeeded; want it to fail")
	}
	if done, err := upToDate(t.Context(), db); done || err != nil {
		t.Errorf("got %v, %v; want it not to be up to date", done, err)
	}
	sqltest.Exec(t, db, "DROP TABLE posts_user_id")
	if err := Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if done, err := upToDate(t.Context(), db); !done || err != nil {
		t.Errorf("got %v, %v; want it to be up to date", done, err)
	}
}
