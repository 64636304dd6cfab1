package conformance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/sqltest"
)

var lockPromises = []promise{
	{"four round trips, nothing prepared", roundTrips},
	{"one inside at a time", exclusion},
	{"try does not wait", tries},
	{"a failed callback rolls back", rollsBack},
	{"a panic or Goexit rolls back", abrupt},
	{"a wait ends with its context", waitEnds},
	{"the end of the context reaches the callback and prevents the commit", cancelledInside},
	{"a lost session is ErrLost", lostSession},
	{"a silent holder is ended", silentHolder},
	{"a long wait is one step, and is reported", longWait},
	{"a long wait of Hold is one step, and is reported", longWaitOfHold},
	{"any int64 is a key", anyKey},
	{"keys are computable in SQL", keysInSQL},
	{"a nested call fails at once", nested},
	{"the callback has the session's settings", callbackSettings},
	{"the callback has what the session has SET", sessionSettings},
}

type txFunc = func(ctx context.Context, tx *sql.Tx) error

func nothing(context.Context, *sql.Tx) error { return nil }

// roundTrips: pgx and lib/pq send one message for a literal Exec, and no other
// kind of call may creep in: a prepared statement breaks behind a pooler, and
// with the key as $1 every CREATE INDEX CONCURRENTLY waits for the lock.
func roundTrips(t *testing.T, tg Target) {
	rec, db := tg.record(t)
	ctx := tg.ctx(t)
	for range 2 {
		if err := advisorylock.WithXactLock(ctx, db, keyOf(t), nothing); err != nil {
			t.Fatal(err)
		}
	}
	const want = "connect > begin > exec > commit > release > take > begin > exec > commit > release"
	if got := rec.String(); got != want {
		t.Errorf("got driver calls %q; want %q", got, want)
	}
	for _, c := range rec.Calls() {
		if c.Kind == recdriver.Begin && c.Isolation != sql.LevelReadCommitted {
			t.Errorf("got isolation %v; want READ COMMITTED", c.Isolation)
		}
	}
}

// exclusion counts who is inside, over several pools, which stand for processes,
// and all the ways to take a key. Without the lock the same crowd is seen to
// overlap.
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
	rush := func(how func(i int) error) *crowd {
		inside = crowd{}
		noErrors(t, together(pools*perPool, func(i int) error {
			for range turns {
				if err := how(i); err != nil {
					return err
				}
			}
			return nil
		}))
		return &inside
	}
	locked := rush(func(i int) error {
		if i%2 == 0 {
			return advisorylock.Hold(ctx, dbs[i/perPool], key, work)
		}
		return advisorylock.WithXactLock(ctx, dbs[i/perPool], key, func(ctx context.Context, _ *sql.Tx) error { return work(ctx) })
	})
	if most, total := locked.most.Load(), locked.total.Load(); most != 1 || total != pools*perPool*turns {
		t.Errorf("got %d inside at once, %d in all; want 1, %d", most, total, pools*perPool*turns)
	}

	// Control: nobody leaves before a second one is inside, which takes but two.
	overlapped := rush(func(int) error {
		inside.enter()
		defer inside.leave()
		for end := time.Now().Add(await.Limit / 2); inside.most.Load() < 2 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if most := overlapped.most.Load(); most < 2 {
		t.Errorf("control: got %d inside at once without the lock; want more than one", most)
	}
}

func tries(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	a, b := tg.open(t), tg.open(t)
	noFn := func(context.Context) error { t.Error("got the function called; want it left out"); return nil }
	err := advisorylock.WithXactLock(ctx, a, key, func(context.Context, *sql.Tx) error {
		for name, db := range map[string]*sql.DB{"another process": b, "another goroutine": a} {
			err := advisorylock.TryWithXactLock(ctx, db, key, func(ctx context.Context, _ *sql.Tx) error { return noFn(ctx) })
			if !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("%s: got %v; want ErrNotAcquired", name, err)
			}
			if err := advisorylock.TryHold(ctx, db, key, noFn); !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("%s: got %v from TryHold; want ErrNotAcquired", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := advisorylock.TryWithXactLock(ctx, b, key, nothing); err != nil {
		t.Errorf("got %v after the commit; want the lock", err)
	}
}

var errOwn = errors.New("the callback's own error")

func rollsBack(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db, admin := tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE TABLE public.rolls_back (n int)")
	var r locktrace.Recorder
	locker := advisorylock.Locker{Trace: r.Trace()}
	err := locker.WithXactLock(ctx, db, key, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "INSERT INTO public.rolls_back VALUES (1)"); err != nil {
			return err
		}
		return errOwn
	})
	if err != errOwn { //nolint:errorlint // untouched
		t.Errorf("got %v; want the callback's own error, untouched", err)
	}
	wantOrder(t, &r, "connect > begin > lock > rollback > release")
	if n := sqltest.Ask[int](t, admin, "SELECT count(*) FROM public.rolls_back"); n != 0 {
		t.Errorf("got %d rows; want the insert rolled back", n)
	}
	err = advisorylock.WithXactLock(ctx, db, key, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO public.rolls_back VALUES (2)")
		return err
	})
	if n := sqltest.Ask[int](t, admin, "SELECT count(*) FROM public.rolls_back"); err != nil || n != 1 {
		t.Errorf("got %d rows, %v; want 1 row committed", n, err)
	}
}

func abrupt(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db, other, admin := tg.open(t), tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE TABLE public.abrupt (n int)")
	for name, end := range map[string]func(){
		"panic":  func() { panic(errOwn) },
		"Goexit": runtime.Goexit,
	} {
		for how, call := range map[string]func(){
			"WithXactLock": func() {
				_ = advisorylock.WithXactLock(ctx, db, key, func(ctx context.Context, tx *sql.Tx) error {
					if _, err := tx.ExecContext(ctx, "INSERT INTO public.abrupt VALUES (1)"); err != nil {
						return err
					}
					end()
					return nil
				})
			},
			"Hold": func() {
				_ = advisorylock.Hold(ctx, db, key, func(context.Context) error { end(); return nil })
			},
		} {
			ended := make(chan any, 1)
			go func() {
				defer func() { ended <- recover() }()
				call()
			}()
			if v := <-ended; name == "panic" && v != any(errOwn) {
				t.Errorf("%s in %s: got %v recovered; want the panic's value", name, how, v)
			}
			if err := advisorylock.TryWithXactLock(ctx, other, key, nothing); err != nil {
				t.Errorf("%s in %s: got %v; want the lock free", name, how, err)
			}
		}
	}
	if n := sqltest.Ask[int](t, admin, "SELECT count(*) FROM public.abrupt"); n != 0 {
		t.Errorf("got %d rows; want the inserts rolled back", n)
	}
}

// waitEnds: on the end of a context pgx returns its error and lib/pq SQLSTATE
// 57014, and neither the cause; callers must see no difference. "Could not get the
// lock" without a name is what people find in their logs at night: who has it, since
// when, and how to get rid of it, is what they need.
func waitEnds(t *testing.T, tg Target) {
	key := keyOf(t)
	a, b, one, admin := tg.open(t), tg.open(t), tg.open(t), tg.admin(t)
	one.SetMaxOpenConns(1)
	locker, reported := reporting(new(locktrace.Recorder))
	begins, begun := beginning()
	for name, wait := range waits(locker, b, key) {
		err := advisorylock.WithXactLock(tg.ctx(t), a, key, func(ctx context.Context, _ *sql.Tx) error {
			holders, _ := sessions(ctx, t, admin, key)
			for _, w := range []struct {
				what  string
				wait  func(ctx context.Context) error
				begun func()
			}{
				{name + ", at once", waits(begins, b, key)[name], func() { await.Value(t, begun) }},
				{name + ", after a while", wait, func() { await.Value(t, reported) }},
				// Who holds it is found out on a pool of one as well.
				{"a pool of one", waits(begins, one, key)["WithXactLock"], func() { await.Value(t, begun) }},
			} {
				err := endWait(tg.ctx(t), w.begun, w.wait) // not from this callback, as another process
				wantIs(t, err, context.Canceled, errOwn)
				wantHolder(t, w.what, err, key, holders[0])
				await.True(t, "the waiter to go", func() bool {
					_, waiters := sessions(ctx, t, admin, key)
					return len(waiters) == 0
				})
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: got %v for the holder; want nil", name, err)
		}
		if err := wait(tg.ctx(t)); err != nil {
			t.Errorf("%s: got %v on the free lock after a cancelled wait; want nil", name, err)
		}
	}
}

// endWait ends the context of a wait, with the cause errOwn, once begun has returned,
// and returns the error of the wait: one that names a holder, if one of ten does, since
// the look at the holder is bounded in time, which a busy machine may need.
func endWait(ctx context.Context, begun func(), wait func(ctx context.Context) error) (err error) {
	for range 10 {
		cancelled, cancel := context.WithCancelCause(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			defer cancel(errOwn)
			begun()
		}()
		err = wait(cancelled)
		<-watched
		var with *advisorylock.WaitError
		if errors.As(err, &with) && len(with.Holders) > 0 {
			break
		}
	}
	return err
}

// wantHolder checks that err, of a wait for key, says who has it and how to end that.
func wantHolder(t *testing.T, what string, err error, key advisorylock.Key, want advisorylock.Session) {
	t.Helper()
	wantStep(t, err, locktrace.Lock)
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

// waits are the calls that wait for a key.
func waits(l advisorylock.Locker, db *sql.DB, key advisorylock.Key) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"WithXactLock": func(ctx context.Context) error { return l.WithXactLock(ctx, db, key, nothing) },
		"Hold": func(ctx context.Context) error {
			return l.Hold(ctx, db, key, func(context.Context) error { return nil })
		},
	}
}

// cancelledInside: a transaction begun with the caller's context is rolled back
// behind the callback's back, and somebody else gets the lock while it still
// runs. Here the lock stays until the callback has returned.
func cancelledInside(t *testing.T, tg Target) {
	key := keyOf(t)
	a, b, admin := tg.open(t), tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE TABLE public.cancelled_inside (n int)")
	run := func(l advisorylock.Locker) error {
		ctx, cancel := context.WithCancel(tg.ctx(t))
		return l.WithXactLock(ctx, a, key, func(fnCtx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(fnCtx, "INSERT INTO public.cancelled_inside VALUES (1)"); err != nil {
				return err
			}
			cancel()
			<-fnCtx.Done()
			for range 3 {
				wantIs(t, advisorylock.TryWithXactLock(tg.ctx(t), b, key, nothing), advisorylock.ErrNotAcquired)
			}
			return nil
		})
	}
	afterLongWait := func() error {
		locker, reported := reporting(new(locktrace.Recorder))
		done := make(chan error, 1)
		err := advisorylock.WithXactLock(tg.ctx(t), b, key, func(ctx context.Context, _ *sql.Tx) error {
			go func() { done <- run(locker) }()
			return awaitReport(ctx, reported, done)
		})
		return errors.Join(err, <-done)
	}
	for name, err := range map[string]error{"at once": run(advisorylock.Locker{}), "after a long wait": afterLongWait()} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v; want the context's error", name, err)
		}
	}
	if n := sqltest.Ask[int](t, admin, "SELECT count(*) FROM public.cancelled_inside"); n != 0 {
		t.Errorf("got %d rows; want nothing committed", n)
	}
	if err := advisorylock.TryWithXactLock(tg.ctx(t), b, key, nothing); err != nil {
		t.Errorf("got %v; want the lock free", err)
	}
}

// lostSession: after pg_terminate_backend pgx says 57P01 and lib/pq no more than
// "bad connection".
func lostSession(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db, admin := tg.open(t), tg.admin(t)
	for name, then := range map[string]txFunc{
		"found out by the commit": nothing,
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
			terminate(ctx, t, admin, key)
			return then(ctx, tx)
		})
		if !errors.Is(err, advisorylock.ErrLost) {
			t.Errorf("%s: got %v; want ErrLost", name, err)
		}
		switch {
		case strings.Contains(name, "commit"):
			wantStep(t, err, locktrace.Commit)
		case strings.Contains(name, "own error"):
			wantIs(t, err, errOwn)
		}
		if err := advisorylock.WithXactLock(ctx, db, key, nothing); err != nil {
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
		return advisorylock.WithXactLock(ctx, b, key, nothing) // gets in when the server has ended the first
	})
	wantIs(t, err, advisorylock.ErrLost)
}

func longWait(t *testing.T, tg Target) {
	longWaitFor(t, tg, func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
		return l.WithXactLock(ctx, db, key, nothing)
	})
}

func longWaitOfHold(t *testing.T, tg Target) {
	longWaitFor(t, tg, func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error {
		return l.Hold(ctx, db, key, func(context.Context) error { return nil })
	})
}

func longWaitFor(t *testing.T, tg Target, wait func(ctx context.Context, l advisorylock.Locker, db *sql.DB, key advisorylock.Key) error) {
	ctx, key := tg.ctx(t), keyOf(t)
	a, b := tg.open(t), tg.open(t)
	var r locktrace.Recorder
	locker, reported := reporting(&r)
	locker.Name = "long wait"
	waited := make(chan error, 1)
	err := advisorylock.WithXactLock(ctx, a, key, func(ctx context.Context, _ *sql.Tx) error {
		go func() { waited <- wait(tg.ctx(t), locker, b, key) }()
		return awaitReport(ctx, reported, waited)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	wantOrder(t, &r, "connect > begin > lock > commit > release")
	w := r.Waits()[0]
	if w.Key != int64(key) || w.Name != "long wait" || len(w.Holders) != 1 || w.Waited <= 0 {
		t.Errorf("got report %+v; want key, name, time and one holder", w)
	}
}

// reporting is a locker that says when its wait begins to last.
func reporting(r *locktrace.Recorder) (advisorylock.Locker, <-chan struct{}) {
	reported := make(chan struct{}, 1)
	trace := r.Trace()
	record := trace.Waiting
	trace.Waiting = func(ctx context.Context, w locktrace.Wait) {
		record(ctx, w)
		select {
		case reported <- struct{}{}:
		default:
		}
	}
	return advisorylock.Locker{Trace: trace}, reported
}

// beginning is a locker that says when it begins to wait. Whether it then stands in
// the server's queue, or asks now and then, is its own affair.
func beginning() (advisorylock.Locker, <-chan struct{}) {
	begun := make(chan struct{}, 100)
	return advisorylock.Locker{Trace: &locktrace.Trace{Start: func(ctx context.Context, e locktrace.Event) context.Context {
		if e.Step == locktrace.Lock {
			begun <- struct{}{}
		}
		return ctx
	}}}, begun
}

// awaitReport waits until the wait lasts, which must not end before.
func awaitReport(ctx context.Context, reported <-chan struct{}, waited <-chan error) error {
	select {
	case <-reported:
		return nil
	case err := <-waited:
		return fmt.Errorf("the wait ended while the lock was held: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func anyKey(t *testing.T, tg Target) {
	ctx := tg.ctx(t)
	a, b, admin := tg.open(t), tg.open(t), tg.admin(t)
	for _, key := range []advisorylock.Key{math.MinInt64, math.MinInt64 + 1, -1<<31 - 1, -1 << 31, -1, 0, 1, 1<<31 - 1, 1 << 31, 1 << 32, math.MaxInt64} {
		try := func(ctx context.Context) {
			if err := advisorylock.TryWithXactLock(ctx, b, key, nothing); !errors.Is(err, advisorylock.ErrNotAcquired) {
				t.Errorf("key %d: got %v; want ErrNotAcquired", key, err)
			}
			if holders, _ := sessions(ctx, t, admin, key); len(holders) != 1 {
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

func nested(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db, other := tg.open(t), tg.open(t)
	err := advisorylock.Hold(ctx, db, key, func(ctx context.Context) error {
		wantIs(t, advisorylock.WithXactLock(ctx, db, key, nothing), advisorylock.ErrNested)
		// Over a second pool it waits for itself, and must not be told to end its own session.
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		err := advisorylock.WithXactLock(short, other, key, nothing)
		if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "pg_terminate_backend") || !strings.Contains(err.Error(), "this call itself") {
			t.Errorf("over another pool: got %v; want a wait that may be for this call itself", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
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
			AND name OPERATOR(pg_catalog.=) ANY (ARRAY['lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout', 'search_path']))`
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
	afterBursts(t, tg, one, nothing, check)
}

// afterBursts has a session of db wait for the key while hold is inside, for longer
// than one burst, and then run fn.
func afterBursts(t *testing.T, tg Target, db *sql.DB, hold, fn txFunc) {
	t.Helper()
	key := keyOf(t)
	locker, reported := reporting(new(locktrace.Recorder))
	waited := make(chan error, 1)
	err := advisorylock.WithXactLock(tg.ctx(t), tg.open(t), key, func(ctx context.Context, tx *sql.Tx) error {
		if err := hold(ctx, tx); err != nil {
			return err
		}
		go func() { waited <- locker.WithXactLock(tg.ctx(t), db, key, fn) }()
		return awaitReport(ctx, reported, waited)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
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
