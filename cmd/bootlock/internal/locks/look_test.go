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
// here.
func TestLookHoldersFirst(t *testing.T) {
	dsn := pgtest.Shared(t).NewDB(t)
	db := sqltest.Open(t, "pgx", dsn)
	txs := []*sql.Tx{sqltest.Begin(t, db), sqltest.Begin(t, db)}
	pid := func(tx *sql.Tx) int { return sqltest.Ask[int](t, tx, "SELECT pg_backend_pid()") }
	slices.SortFunc(txs, func(a, b *sql.Tx) int { return pid(a) - pid(b) })
	want := []int{pid(txs[1]), pid(txs[0])}

	sqltest.Exec(t, txs[1], "SELECT pg_advisory_xact_lock(42)")
	granted := await.Go(func() error {
		_, err := txs[0].ExecContext(context.Background(), "SELECT pg_advisory_xact_lock(42)")
		return err
	})
	var found []*locks.Lock
	await.True(t, "a session that waits", func() (is bool) {
		var err error
		if found, err = locks.Look(t.Context(), db, locks.Query{Keys: []advisorylock.Key{42}}); err != nil {
			t.Fatal(err)
		}
		return len(found) == 1 && len(found[0].Sessions) == 2
	})
	if got := []int{found[0].Sessions[0].PID, found[0].Sessions[1].PID}; !slices.Equal(got, want) {
		t.Errorf("got sessions %v; want the holder first: %v", got, want)
	}
	sqltest.Commit(t, txs[1])
	if err := await.Value(t, granted); err != nil {
		t.Error(err)
	}
}

// A holder that waits itself is shown with the session that it waits for.
func TestLookHolderThatWaits(t *testing.T) {
	db := sqltest.Open(t, "pgx", pgtest.Shared(t).NewDB(t))
	third, holder := sqltest.Begin(t, db), sqltest.Begin(t, db)
	sqltest.Exec(t, third, "SELECT pg_advisory_xact_lock(43)")
	sqltest.Exec(t, holder, "SELECT pg_advisory_xact_lock(42)")
	granted := await.Go(func() error {
		_, err := holder.ExecContext(context.Background(), "SELECT pg_advisory_xact_lock(43)")
		return err
	})
	want := strconv.Itoa(sqltest.Ask[int](t, third, "SELECT pg_backend_pid()"))
	await.True(t, "the holder of 42 to wait for "+want, func() bool {
		found, err := locks.Look(t.Context(), db, locks.Query{Keys: []advisorylock.Key{42}})
		return err == nil && len(found) == 1 && len(found[0].Sessions) == 1 && found[0].Sessions[0].BlockedBy == want
	})
	sqltest.Commit(t, third)
	if err := await.Value(t, granted); err != nil {
		t.Error(err)
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
