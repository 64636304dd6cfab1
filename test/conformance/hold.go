package conformance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/sqltest"
)

var holdPromises = []promise{
	{"Hold outlives its TTL", holdOutlivesTTL},
	{"a lost lease ends the callback's context", holdLost},
	{"CREATE INDEX CONCURRENTLY under Hold, with waiters", indexConcurrently},
	{"a holder keeps no snapshot", noSnapshot},
	{"Sessions shows who holds and who waits", sessionsShown},
	{"a Name of any text", anyName},
}

func holdOutlivesTTL(t *testing.T, tg Target) {
	db := tg.open(t)
	locktest.Outlives(t, keyOf(t), time.Second, func(limit time.Duration) (advisorylock.Locker, *sql.DB) { return advisorylock.Locker{TTL: limit}, db })
}

func holdLost(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	a, admin := tg.open(t), tg.admin(t)
	for name, returned := range map[string]error{"nil": nil, "an error": errOwn} {
		err := advisorylock.Hold(ctx, a, key, func(ctx context.Context) error {
			locktest.Terminate(t, admin, key)
			<-ctx.Done()
			wantIs(t, context.Cause(ctx), advisorylock.ErrLost)
			return returned
		})
		if !errors.Is(err, advisorylock.ErrLost) {
			t.Errorf("callback returned %s: got %v; want ErrLost", name, err)
		}
		if returned != nil {
			wantIs(t, err, returned)
		}
	}
}

// indexConcurrently: a session that blocks in pg_advisory_lock keeps a snapshot,
// for which CREATE INDEX CONCURRENTLY waits; the one that builds the index has
// the lock: a deadlock that PostgreSQL cannot see, since two connections of one
// process are in it. golang-migrate and tern hang in it, or fail with 40P01.
func indexConcurrently(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	a, admin := tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE TABLE public.indexed (n int)")
	const each = 2
	begins, begun := locktest.Beginning()
	var waiting []<-chan error
	err := advisorylock.Hold(ctx, a, key, func(ctx context.Context) error {
		for range each {
			db := tg.open(t)
			for _, wait := range locktest.Waits {
				waiting = append(waiting, await.Go(func() error { return wait(tg.ctx(t), begins, db, key) }))
			}
		}
		for range each { // the second of a pool waits in the process for the first
			await.Value(t, begun)
		}
		// As admin, since lock_timeout, where it is set, ends this as well.
		_, err := admin.ExecContext(ctx, "CREATE INDEX CONCURRENTLY ON public.indexed (n)")
		return err
	})
	if err != nil {
		t.Errorf("got %v; want the index built while others wait", err)
	}
	for _, done := range waiting {
		if err := await.Value(t, done); err != nil {
			t.Errorf("got %v for a waiter; want the lock", err)
		}
	}

	// Control: with one session that simply blocks, the same index is not built.
	err = advisorylock.Hold(ctx, a, key, func(ctx context.Context) error {
		blocked := make(chan struct{})
		blockCtx, unblock := context.WithCancel(ctx)
		defer func() { unblock(); <-blocked }()
		go func() {
			defer close(blocked)
			_, _ = admin.ExecContext(blockCtx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", key))
		}()
		sqltest.AwaitWaiters(t, admin, key, 1)
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err := admin.ExecContext(short, "CREATE INDEX CONCURRENTLY ON public.indexed (n)")
		return err
	})
	if err == nil {
		t.Error("control: got the index built while a session blocks; want it to hang")
	}
}

// noSnapshot: with the key as $1, or by a query, pgx and lib/pq leave a snapshot
// behind, which holds up vacuum and CREATE INDEX CONCURRENTLY in the database.
func noSnapshot(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	a, b, admin := tg.open(t), tg.open(t), tg.admin(t)
	keeps := func() bool {
		return sqltest.Ask[bool](t, admin, "SELECT backend_xmin IS NOT NULL OR backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = $1",
			locktest.Holders(t, admin, key)[0].PID)
	}
	look := func() {
		if keeps() {
			t.Error("got a snapshot while the holder idles; want none")
		}
	}
	inXact := func(context.Context, *sql.Tx) error { look(); return nil }
	inHold := func(context.Context) error { look(); return nil }
	for _, l := range []advisorylock.Locker{{}, {TTL: time.Minute}, {Name: "app"}} {
		err := errors.Join(
			l.WithXactLock(ctx, a, key, inXact), l.TryWithXactLock(ctx, a, key, inXact),
			l.Hold(ctx, a, key, inHold), l.TryHold(ctx, a, key, inHold),
		)
		if err != nil {
			t.Fatalf("%+v: %v", l, err)
		}
	}
	afterBursts(t, tg, b, locktest.Nothing, inXact)
	err := advisorylock.WithXactLock(ctx, b, key, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DECLARE control CURSOR FOR SELECT 1")
		if err == nil && !keeps() {
			t.Error("control: got no snapshot with a cursor open; want one")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sessionsShown(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	a, b, c, admin := tg.open(t), tg.open(t), tg.open(t), tg.admin(t)
	var waited <-chan error
	err := advisorylock.Locker{Name: "war story"}.Hold(ctx, a, key, func(ctx context.Context) error {
		begins, begun := locktest.Beginning()
		waited = await.Go(func() error { return begins.WithXactLock(tg.ctx(t), b, key, locktest.Nothing) })
		await.Value(t, begun)
		// Through the pooler, with every driver mode: a query, not an Exec.
		for range 5 {
			if _, err := advisorylock.Sessions(ctx, c, key); err != nil {
				t.Errorf("got %v; want the sessions", err)
			}
		}
		h := locktest.Holders(t, admin, key)[0]
		if h.PID <= 0 || h.User == "" || h.State != "idle in transaction" ||
			time.Since(h.Since) > await.Limit || !strings.Contains(h.Query, "war story") {
			t.Errorf("got holder %+v; want an idle transaction that says what it holds", h)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := await.Value(t, waited); err != nil {
		t.Error(err)
	}
}

// anyName: the name stands in statements, and lib/pq sends UTF-8: on LATIN1 a name
// outside it failed with 22P05.
func anyName(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db := tg.open(t)
	for _, name := range []string{"図式🔒", "*/ SELECT 1 /*", "a'b\\", "$bootlock$", "\x00", "\xff", "\n"} {
		l := advisorylock.Locker{Name: name}
		err := errors.Join(l.WithXactLock(ctx, db, key, locktest.Nothing), l.Hold(ctx, db, key, locktest.None))
		if err != nil {
			t.Errorf("%q: got %v; want the lock", name, err)
		}
	}
}
