package start

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

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

func TestStartOnAServer(t *testing.T) {
	db := connect(t)
	for range 2 {
		err := Start(db, func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS app.t (x int)")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	exec(t, db, "INSERT INTO app.t VALUES (1)")
}

func TestShow(t *testing.T) {
	db := connect(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	err = Show(context.Background(), db, func(context.Context, *sql.DB) error { return nil })
	os.Stdout = stdout
	w.Close()
	if err != nil {
		t.Error(err)
	}
	printed, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(printed)), os.Getenv("README_ORDER"); got != want {
		t.Errorf("printed %q; the README says %q", got, want)
	}
}

// A fleet starts where nothing is there yet, where the schema is, and where the
// table is there and empty; its second start migrates nothing.
func TestFleet(t *testing.T) {
	const table = "CREATE TABLE IF NOT EXISTS app.migrations (version int)"
	for name, before := range map[string]string{
		"nothing": "", "schema": "CREATE SCHEMA app", "empty table": "CREATE SCHEMA app; " + table,
	} {
		t.Run(name, func(t *testing.T) {
			db := connect(t)
			exec(t, db, before)
			migrated := 0
			migrate := func(ctx context.Context, db *sql.DB) error {
				migrated++
				_, err := db.ExecContext(ctx, fmt.Sprintf("%s; INSERT INTO app.migrations VALUES (%d)", table, version))
				return err
			}
			for range 2 {
				if err := Fleet.Ensure(context.Background(), db, "app", migrate); err != nil {
					t.Error(err)
				}
			}
			if migrated != 1 {
				t.Errorf("migrated %d times; want once", migrated)
			}
			exec(t, db, fmt.Sprintf("INSERT INTO app.migrations VALUES (%d)", version+1))
			if err := Fleet.Ensure(context.Background(), db, "app", migrate); err == nil || !strings.Contains(err.Error(), "newer than this build") {
				t.Errorf("got %v; want an error that says that the schema is newer", err)
			}
		})
	}
}
