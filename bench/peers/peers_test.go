package peers

import (
	"context"
	"database/sql"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// A peer that did not exclude would look fast. Two take its lock: while one is inside,
// the other is not, and gets in afterwards, unless it asks too rarely for a test.
func TestPeersExclude(t *testing.T) {
	t.Parallel()
	for _, p := range All() {
		for _, driver := range []string{"pgx", "postgres"} {
			if p.OnlyOn != "" && p.OnlyOn != driver {
				continue
			}
			t.Run(p.Name+"/"+driver, func(t *testing.T) {
				t.Parallel()
				dsn := pgtest.Shared(t).NewDB(t)
				one, other := open(t, p, driver, dsn), open(t, p, driver, dsn)
				if !excludes(t, one, other, 150*time.Millisecond) {
					t.Error("two are inside at the same time")
				}
			})
		}
	}
}

// The control group: a lock that is none is found out.
func TestNoLockIsFoundOut(t *testing.T) {
	t.Parallel()
	none := func(ctx context.Context, fn func(ctx context.Context) error) error { return fn(ctx) }
	if excludes(t, none, none, await.Limit) {
		t.Error("two that take no lock exclude each other")
	}
}

func open(t *testing.T, p Peer, driver, dsn string) Lock {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	lock, closed, err := p.Open(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closed() })
	// Twice, since some remember that they have had their turn.
	for range 2 {
		if err := lock(t.Context(), func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	return lock
}

// excludes has one wait inside until other asks, and then for a moment, unless other
// gets in. What other does after that is not waited for.
func excludes(t *testing.T, one, other Lock, moment time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	inside, asks := make(chan struct{}), make(chan struct{})
	both := false
	var all sync.WaitGroup
	var got sync.WaitGroup
	got.Add(1)
	entered := make(chan struct{})
	all.Go(func() {
		defer got.Done()
		err := one(ctx, func(context.Context) error {
			close(inside)
			<-asks
			select {
			case <-entered:
				both = true
			case <-time.After(moment):
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	await.Value(t, inside)
	all.Go(func() {
		close(asks)
		_ = other(ctx, func(context.Context) error { close(entered); return nil })
	})
	got.Wait()
	cancel()
	all.Wait()
	return !both
}
