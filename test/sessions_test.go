package test

import (
	"database/sql"
	"fmt"
	"slices"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

func TestSessionsListsHoldersAndWaiters(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t).NewDB(t)
	admin := sqltest.Open(t, "pgx", dsn)
	const key = advisorylock.Key(7<<32 | 9)
	begin := func(application string) *sql.Tx {
		return sqltest.Begin(t, sqltest.Open(t, "pgx", pgtest.WithParams(dsn, "application_name", application)))
	}
	// The holder begins its transaction after those that wait, and comes first all the same.
	first, second := begin("exclusive"), begin("shared")
	holder := sqltest.Occupy(t, pgtest.WithParams(dsn, "application_name", "holder"), key)
	// The two-key form with the same numbers is another lock, and so is the
	// same key in another database.
	sqltest.Exec(t, sqltest.Begin(t, sqltest.Open(t, "pgx", dsn)), "SELECT pg_advisory_xact_lock(7, 9)")
	sqltest.Exec(t, sqltest.Begin(t, sqltest.Open(t, "pgx", pgtest.Shared(t).NewDB(t))), "SELECT pg_advisory_xact_lock("+key.String()+")")

	ctx := t.Context()
	wait := func(tx *sql.Tx, function string) <-chan error {
		return await.Go(func() error {
			if _, err := tx.ExecContext(ctx, "SELECT "+function+"("+key.String()+")"); err != nil {
				return err
			}
			return tx.Commit()
		})
	}
	exclusive := wait(first, "pg_advisory_xact_lock")
	sqltest.AwaitWaiters(t, admin, key, 1)
	shared := wait(second, "pg_advisory_xact_lock_shared")
	sqltest.AwaitWaiters(t, admin, key, 2)

	eachDriver(t, func(t *testing.T, driver string) {
		db := sqltest.Open(t, driver, dsn)
		sessions, err := advisorylock.Sessions(ctx, db, key)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		pids := map[int]bool{}
		for _, s := range sessions {
			got = append(got, fmt.Sprintf("%s granted=%t", s.Application, s.Granted))
			pids[s.PID] = true
		}
		want := []string{"holder granted=true", "exclusive granted=false", "shared granted=false"}
		if !slices.Equal(got, want) || len(pids) != 3 {
			t.Errorf("got %q; want %q", got, want)
		}
	})
	sqltest.Commit(t, holder)
	for _, done := range []<-chan error{exclusive, shared} {
		await.NoError(t, "a waiter", done)
	}
	if sessions, err := advisorylock.Sessions(ctx, admin, key); err != nil || len(sessions) != 0 {
		t.Errorf("afterwards: got %v, %v; want none", sessions, err)
	}
}
