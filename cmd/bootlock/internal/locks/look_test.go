package locks_test

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/locks"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// The server shows sessions by their number; the one with the lower number waits
// here. A holder that waits itself is shown with the session that it waits for.
func TestLookHoldersFirst(t *testing.T) {
	db := sqltest.Open(t, "pgx", pgtest.Shared(t).NewDB(t))
	pid := func(tx *sql.Tx) int { return sqltest.Ask[int](t, tx, "SELECT pg_backend_pid()") }
	third, waiter, holder := sqltest.Begin(t, db), sqltest.Begin(t, db), sqltest.Begin(t, db)
	if pid(waiter) > pid(holder) {
		waiter, holder = holder, waiter
	}
	want := []int{pid(holder), pid(waiter)}
	blocker := strconv.Itoa(pid(third))
	sqltest.Exec(t, third, "SELECT pg_advisory_xact_lock(43)")
	sqltest.Exec(t, holder, "SELECT pg_advisory_xact_lock(42)")
	lock := func(tx *sql.Tx, key int) <-chan error {
		return await.Go(func() error {
			_, err := tx.ExecContext(context.Background(), "SELECT pg_advisory_xact_lock($1)", key)
			return err
		})
	}
	granted := []<-chan error{lock(holder, 43), lock(waiter, 42)}
	var sessions []locks.Session
	await.True(t, "two that wait", func() bool {
		found, err := locks.Look(t.Context(), db, locks.Query{Keys: []advisorylock.Key{42}})
		if err != nil {
			t.Fatal(err)
		}
		sessions = found[0].Sessions
		return len(sessions) == 2 && slices.ContainsFunc(sessions, func(s locks.Session) bool { return s.BlockedBy == blocker })
	})
	if got := []int{sessions[0].PID, sessions[1].PID}; !slices.Equal(got, want) || sessions[0].BlockedBy != blocker {
		t.Errorf("got sessions %v; want the holder first: %v, and that it waits for %s", sessions, want, blocker)
	}
	sqltest.Commit(t, third)
	for i, tx := range []*sql.Tx{holder, waiter} {
		if err := await.Value(t, granted[i]); err != nil {
			t.Error(err)
		}
		sqltest.Commit(t, tx)
	}
}

// A transaction in the gate, and who waits for it, were locks of which nobody knew
// whose they are, and so was the number of a lease without a name.
func TestLookFence(t *testing.T) {
	dsn := pgtest.Shared(t).NewDB(t)
	db := sqltest.Open(t, "pgx", dsn)
	for name, locker := range map[string]advisorylock.Locker{"nightly": {Name: "nightly"}, "4711": {}} {
		key := advisorylock.Key(4711)
		if locker.Name != "" {
			key = advisorylock.KeyOf(locker.Name)
		}
		err := locker.Hold(t.Context(), db, key, func(ctx context.Context) error {
			tx := sqltest.Begin(t, db)
			if err := advisorylock.Fence(ctx, tx); err != nil {
				t.Error(err)
			}
			found, err := locks.Look(ctx, db, locks.Query{})
			kinds := map[string]string{}
			for _, l := range found {
				kinds[l.Kind] = l.Name
			}
			if err != nil || len(found) != 3 || kinds[locks.Fence] != name || kinds[locks.Lease] != name {
				t.Errorf("got %v, %v of a lease with a fenced transaction; want its lock, its number and its gate, named %s", kinds, err, name)
			}
			asked, err := locks.Look(ctx, db, locks.Query{Keys: []advisorylock.Key{key}})
			if err != nil || len(asked) != 2 {
				t.Errorf("got %d locks, %v by the key; want the lock and its fence", len(asked), err)
			}
			sqltest.Commit(t, tx)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
