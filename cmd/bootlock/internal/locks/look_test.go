package locks_test

import (
	"context"
	"database/sql"
	"errors"
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

// Holders come first, then those who wait, the longest first, whatever their numbers are.
// A holder that waits itself is shown with the session that it waits for.
func TestLookHoldersFirst(t *testing.T) {
	db := sqltest.Open(t, "pgx", pgtest.Shared(t).NewDB(t))
	pid := func(on sqltest.Querier) int { return sqltest.Ask[int](t, on, "SELECT pg_backend_pid()") }
	conns := make([]*sql.Conn, 4)
	for i := range conns {
		var err error
		if conns[i], err = db.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	slices.SortFunc(conns, func(a, b *sql.Conn) int { return pid(b) - pid(a) })
	var txs []*sql.Tx
	var pids []int
	for _, conn := range conns {
		tx, err := conn.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		txs, pids = append(txs, tx), append(pids, pid(tx))
	}
	third, first, second, holder := txs[0], txs[1], txs[2], txs[3]
	blocker, want := strconv.Itoa(pids[0]), []int{pids[3], pids[1], pids[2]}
	sqltest.Exec(t, third, "SELECT pg_advisory_xact_lock(43)")
	sqltest.Exec(t, holder, "SELECT pg_advisory_xact_lock(42)")
	lock := func(tx *sql.Tx, key int) <-chan error {
		return await.Go(func() error {
			_, err := tx.ExecContext(context.Background(), "SELECT pg_advisory_xact_lock($1)", key)
			return errors.Join(err, tx.Commit())
		})
	}
	granted := []<-chan error{lock(holder, 43), lock(second, 42), lock(first, 42)}
	var got []int
	await.True(t, "three that wait", func() bool {
		found, err := locks.Look(t.Context(), db, locks.Query{Keys: []int64{42}})
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		for _, s := range found[0].Sessions {
			got = append(got, s.PID)
		}
		return len(got) == 3 && slices.ContainsFunc(found[0].Sessions, func(s locks.Session) bool { return s.PID == pids[3] && s.BlockedBy == blocker })
	})
	if !slices.Equal(got, want) {
		t.Errorf("got sessions %v; want the holder first: %v", got, want)
	}
	sqltest.Commit(t, third)
	for _, err := range granted {
		if err := await.Value(t, err); err != nil {
			t.Error(err)
		}
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
			if err != nil || len(found) != 2 || kinds[locks.Fence] != name {
				t.Errorf("got %v, %v of a lease with a fenced transaction; want its lock and its gate, named %s", kinds, err, name)
			}
			asked, err := locks.Look(ctx, db, locks.Query{Keys: []int64{int64(key)}})
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
