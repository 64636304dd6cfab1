package conformance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/sqltest"
)

var lockPromises = []promise{
	{"one inside at a time", exclusion},
	{"a wait ends with its context", waitEnds},
	{"the end of the context reaches the callback and prevents the commit", cancelledInside},
	{"a lost session is ErrLost", lostSession},
	{"a silent holder is ended", silentHolder},
	{"any int64 is a key", anyKey},
	{"keys are computable in SQL", keysInSQL},
	{"the callback has the session's settings", callbackSettings},
	{"the callback has what the session has SET", sessionSettings},
}

type txFunc = func(ctx context.Context, tx *sql.Tx) error

// exclusion counts those that are inside, over several pools, which stand for
// processes, and all the ways to take a key. Without the lock they are seen to overlap.
func exclusion(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	const pools, perPool, turns = 4, 2, 3
	var dbs [pools]*sql.DB
	for i := range dbs {
		dbs[i] = tg.open(t)
	}
	var inside crowd
	work := func(ctx context.Context) error {
		inside.enter()
		defer inside.leave()
		_, err := dbs[0].ExecContext(ctx, "SELECT pg_sleep(0.001)")
		return err
	}
	noErrors(t, together(pools*perPool, func(i int) (err error) {
		for turn := 0; turn < turns && err == nil; turn++ {
			if i%2 == 0 {
				err = advisorylock.Hold(ctx, dbs[i/perPool], key, work)
			} else {
				err = advisorylock.WithXactLock(ctx, dbs[i/perPool], key, func(ctx context.Context, _ *sql.Tx) error { return work(ctx) })
			}
		}
		return err
	}))
	if most, total := inside.most.Load(), inside.total.Load(); most != 1 || total != pools*perPool*turns {
		t.Errorf("got %d inside at once, %d in all; want 1, %d", most, total, pools*perPool*turns)
	}

	var both sync.WaitGroup
	both.Add(2)
	noErrors(t, together(2, func(int) error {
		inside.enter()
		defer inside.leave()
		both.Done()
		both.Wait()
		return nil
	}))
	if most := inside.most.Load(); most != 2 {
		t.Errorf("control: got %d inside at once without the lock; want 2", most)
	}
}

var errOwn = errors.New("the callback's own error")

// waitEnds: on the end of a context pgx returns its error and lib/pq SQLSTATE
// 57014, and neither the cause; callers must see no difference. "Could not get the
// lock" without a name is what people find in their logs at night: who has it, since
// when, and how to get rid of it, is what they need.
func waitEnds(t *testing.T, tg Target) {
	key := keyOf(t)
	a, b, one, admin := tg.open(t), tg.open(t), tg.open(t), tg.admin(t)
	one.SetMaxOpenConns(1)
	locker, lasting := locktest.Lasting(advisorylock.Locker{})
	begins, begun := locktest.Beginning()
	for name, wait := range locktest.Waits {
		err := advisorylock.WithXactLock(tg.ctx(t), a, key, func(context.Context, *sql.Tx) error {
			holder := locktest.Holders(t, admin, key)[0]
			ctx := tg.ctx(t) // not of this callback, as another process
			for what, err := range map[string]error{
				"at once":       locktest.EndWait(ctx, errOwn, begun, func(ctx context.Context) error { return wait(ctx, begins, b, key) }),
				"after a while": locktest.EndWait(ctx, errOwn, lasting, func(ctx context.Context) error { return wait(ctx, locker, b, key) }),
				// Who holds it is found out on a pool of one as well.
				"a pool of one": locktest.EndWait(ctx, errOwn, begun, func(ctx context.Context) error {
					return begins.WithXactLock(ctx, one, key, locktest.Nothing)
				}),
			} {
				wantIs(t, err, context.Canceled, errOwn)
				wantHolder(t, name+", "+what, err, key, holder)
			}
			sqltest.AwaitWaiters(t, admin, key, 0)
			return nil
		})
		if err != nil {
			t.Errorf("%s: got %v for the holder; want nil", name, err)
		}
		if err := wait(tg.ctx(t), locker, b, key); err != nil {
			t.Errorf("%s: got %v on the free lock after a cancelled wait; want nil", name, err)
		}
	}
}

// wantHolder checks that err, of a wait for key, says who has it and how to end that.
func wantHolder(t *testing.T, what string, err error, key advisorylock.Key, want advisorylock.Session) {
	t.Helper()
	locktest.WantStep(t, err, locktrace.Lock)
	var wait *advisorylock.WaitError
	if !errors.As(err, &wait) || wait.Key != key || wait.Waited <= 0 || len(wait.Holders) != 1 {
		t.Errorf("%s: got %v; want a WaitError with the key, the time and one holder", what, err)
		return
	}
	got := wait.Holders[0]
	if !got.Since.Equal(want.Since) {
		t.Errorf("%s: got a holder since %v; want %v", what, got.Since, want.Since)
	}
	got.Since = want.Since
	if got != want {
		t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
	for _, part := range []string{key.String(), want.User, "idle in transaction", want.TerminateSQL()} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %v; want %q in it", what, err, part)
		}
	}
}

// cancelledInside: a transaction begun with the caller's context is rolled back
// behind the callback's back, and somebody else gets the lock while it still
// runs. Here the lock stays until the callback has returned.
func cancelledInside(t *testing.T, tg Target) {
	key := keyOf(t)
	a, b, admin := tg.open(t), tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE TABLE public.cancelled_inside (n int)")
	ended := func(cancel context.CancelFunc, fnCtx context.Context) {
		cancel()
		<-fnCtx.Done()
		for range 3 {
			wantIs(t, advisorylock.TryWithXactLock(tg.ctx(t), b, key, locktest.Nothing), advisorylock.ErrNotAcquired)
		}
	}
	run := func(l advisorylock.Locker) error {
		ctx, cancel := context.WithCancel(tg.ctx(t))
		return l.WithXactLock(ctx, a, key, func(fnCtx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(fnCtx, "INSERT INTO public.cancelled_inside VALUES (1)")
			ended(cancel, fnCtx)
			return err
		})
	}
	afterLongWait := func() error {
		locker, lasting := locktest.Lasting(advisorylock.Locker{})
		var done <-chan error
		err := advisorylock.WithXactLock(tg.ctx(t), b, key, func(context.Context, *sql.Tx) error {
			done = await.Go(func() error { return run(locker) })
			locktest.AwaitReport(t, lasting, done)
			return nil
		})
		return errors.Join(err, await.Value(t, done))
	}
	hold := func() error {
		ctx, cancel := context.WithCancel(tg.ctx(t))
		return advisorylock.Hold(ctx, a, key, func(fnCtx context.Context) error {
			ended(cancel, fnCtx)
			return fnCtx.Err()
		})
	}
	for name, err := range map[string]error{"at once": run(advisorylock.Locker{}), "after a long wait": afterLongWait(), "Hold": hold()} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v; want the context's error", name, err)
		}
	}
	if n := sqltest.Ask[int](t, admin, "SELECT count(*) FROM public.cancelled_inside"); n != 0 {
		t.Errorf("got %d rows; want nothing committed", n)
	}
	if err := advisorylock.TryWithXactLock(tg.ctx(t), b, key, locktest.Nothing); err != nil {
		t.Errorf("got %v; want the lock free", err)
	}
}

// lostSession: after pg_terminate_backend pgx says 57P01 and lib/pq no more than
// "bad connection".
func lostSession(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db, admin := tg.open(t), tg.admin(t)
	for name, then := range map[string]txFunc{
		"found out by the commit": locktest.Nothing,
		"found out by a statement": func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "SELECT 1")
			return err
		},
		"ignored by the callback": func(ctx context.Context, tx *sql.Tx) error {
			_, _ = tx.ExecContext(ctx, "SELECT 1")
			return nil
		},
		"beside the callback's own error": func(context.Context, *sql.Tx) error { return errOwn },
	} {
		err := advisorylock.WithXactLock(ctx, db, key, func(ctx context.Context, tx *sql.Tx) error {
			locktest.Terminate(t, admin, key)
			return then(ctx, tx)
		})
		if !errors.Is(err, advisorylock.ErrLost) {
			t.Errorf("%s: got %v; want ErrLost", name, err)
		}
		switch {
		case strings.Contains(name, "commit"):
			locktest.WantStep(t, err, locktrace.Commit)
		case strings.Contains(name, "own error"):
			wantIs(t, err, errOwn)
		}
		if err := advisorylock.WithXactLock(ctx, db, key, locktest.Nothing); err != nil {
			t.Errorf("%s: got %v from the next call; want a sound connection", name, err)
		}
	}
}

// silentHolder: without the limit a frozen holder keeps the lock until TCP gives
// up, by default two hours.
func silentHolder(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	a, b := tg.open(t), tg.open(t)
	err := advisorylock.Locker{TTL: time.Second}.WithXactLock(ctx, a, key, func(ctx context.Context, _ *sql.Tx) error {
		return advisorylock.WithXactLock(ctx, b, key, locktest.Nothing) // gets in when the server has ended the first
	})
	wantIs(t, err, advisorylock.ErrLost)
}

func anyKey(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	a, b, admin := tg.open(t), tg.open(t), tg.admin(t)
	for _, key := range []advisorylock.Key{math.MinInt64, math.MinInt64 + 1, -1<<31 - 1, -1 << 31, -1, 0, 1, 1<<31 - 1, 1 << 31, 1 << 32, math.MaxInt64} {
		try := func(ctx context.Context) {
			if err := advisorylock.TryWithXactLock(ctx, b, key, locktest.Nothing); !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("key %d: got %v; want ErrNotAcquired", key, err)
			}
			if holders := locktest.Holders(t, admin, key); len(holders) != 1 {
				t.Errorf("key %d: got %d holders; want 1", key, len(holders))
			}
			if n := sqltest.Ask[int](t, admin, fmt.Sprintf(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
				AND ((classid::bigint << 32) | objid::bigint)::text = '%d' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, key)); n != 1 {
				t.Errorf("key %d: got %d such locks on the server; want 1", key, n)
			}
		}
		err := advisorylock.WithXactLock(ctx, a, key, func(ctx context.Context, _ *sql.Tx) error { try(ctx); return nil })
		if err := errors.Join(err, advisorylock.Hold(ctx, a, key, func(ctx context.Context) error { try(ctx); return nil })); err != nil {
			t.Errorf("key %d: got %v; want nil", key, err)
		}
	}
}

// keysInSQL: other programs, in other languages, take the same lock, and a key is
// the same for ever.
func keysInSQL(t *testing.T, tg Target) {
	admin := tg.admin(t)
	negative, positive := false, false
	names := []string{"", "app", "App", "Grüße, it's", `back\slash`, "схема", "図式🔒", strings.Repeat("x", 500)}
	for _, name := range tg.encodable(t, names) {
		schema := schemaguard.KeyFor(name)
		for text, got := range map[string]advisorylock.Key{
			name:                                     advisorylock.KeyOf(name),
			"schemaguard:" + name:                    schema,
			"schemaguard/migrate:" + schema.String(): schemaguard.MigrateKey(schema),
		} {
			want := sqltest.Ask[int64](t, admin, fmt.Sprintf(
				"SELECT ('x' || left(encode(sha256(convert_to('%s', 'UTF8')), 'hex'), 16))::bit(64)::bigint", strings.ReplaceAll(text, "'", "''")))
			if got != advisorylock.Key(want) {
				t.Errorf("%q: got %d; the server says %d", text, got, want)
			}
			negative, positive = negative || got < 0, positive || got > 0
		}
	}
	if !negative || !positive {
		t.Error("the keys are all of one sign; want both")
	}
}

// callbackSettings: SET LOCAL x TO DEFAULT would lose what the session had set, so
// the library must restore the values themselves, after a wait in bursts too. At
// SERIALIZABLE the snapshot would be from before the wait, without what the holder
// has committed.
func callbackSettings(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	a, b, admin := tg.open(t), tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE TABLE public.committed (n int)")
	const asBefore = `SELECT 1 WHERE pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed'
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_settings WHERE setting OPERATOR(pg_catalog.<>) reset_val
			AND name OPERATOR(pg_catalog.=) ANY (ARRAY['lock_timeout', 'statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout', 'search_path']))`
	check := func(ctx context.Context, tx *sql.Tx) error {
		wantRow(ctx, t, tx, asBefore)
		return nil
	}
	if err := advisorylock.WithXactLock(ctx, a, keyOf(t), check); err != nil {
		t.Error(err)
	}
	afterBursts(t, tg, b, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO public.committed VALUES (1)")
		return err
	}, func(ctx context.Context, tx *sql.Tx) error {
		wantRow(ctx, t, tx, "SELECT 1 FROM public.committed")
		return check(ctx, tx)
	})
}

// sessionSettings: what was SET, and not come from the role or the DSN, is lost by
// what falls back to the default.
func sessionSettings(t *testing.T, tg Target) {
	if tg.Admin != tg.DSN {
		t.Skip("not tested: a pooler in transaction mode has no session to SET anything in")
	}
	one := tg.open(t)
	one.SetMaxOpenConns(1)
	sqltest.Exec(t, one, "SET lock_timeout = '210ms'; SET statement_timeout = '310ms'")
	check := func(ctx context.Context, tx *sql.Tx) error {
		wantRow(ctx, t, tx, `SELECT 1 WHERE pg_catalog.current_setting('lock_timeout') OPERATOR(pg_catalog.=) '210ms'
			AND pg_catalog.current_setting('statement_timeout') OPERATOR(pg_catalog.=) '310ms'`)
		return nil
	}
	if err := advisorylock.WithXactLock(tg.ctx(t), one, keyOf(t), check); err != nil {
		t.Error(err)
	}
	afterBursts(t, tg, one, locktest.Nothing, check)
}

// afterBursts has a session of db wait for the key while hold is inside, for longer
// than one burst, and then run fn.
func afterBursts(t *testing.T, tg Target, db *sql.DB, hold, fn txFunc) {
	t.Helper()
	key := keyOf(t)
	locker, lasting := locktest.Lasting(advisorylock.Locker{})
	var waited <-chan error
	err := advisorylock.WithXactLock(tg.ctx(t), tg.open(t), key, func(ctx context.Context, tx *sql.Tx) error {
		if err := hold(ctx, tx); err != nil {
			return err
		}
		waited = await.Go(func() error { return locker.WithXactLock(tg.ctx(t), db, key, fn) })
		locktest.AwaitReport(t, lasting, waited)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := await.Value(t, waited); err != nil {
		t.Errorf("got %v (SQLSTATE %q); want nil", err, sqlstate.Of(err))
	}
}

// wantRow checks that query has a row, without a query, which would be the driver's
// prepared statement, and the pooler's trouble.
func wantRow(ctx context.Context, t *testing.T, tx *sql.Tx, query string) {
	t.Helper()
	res, err := tx.ExecContext(ctx, query)
	if err != nil {
		t.Error(err)
		return
	}
	if n, err := res.RowsAffected(); n != 1 || err != nil {
		t.Errorf("got %d rows, %v; want one of: %s", n, err, query)
	}
}
