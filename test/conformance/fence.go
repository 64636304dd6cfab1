package conformance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/fence"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/sqltest"
)

var fencePromises = []promise{
	{"Fence is one round trip, nothing prepared", fenceRoundTrip},
	{"nobody begins while a fenced transaction lasts", fenceKeepsOut},
	{"a late transaction is refused", fenceRefusesLate},
	{"a fence works at every isolation level", fenceIsolation},
	{"the innermost Hold is the one that is fenced", fenceNested},
	{"a fenced transaction has an idle limit", fenceIdleLimit},
	{"a lease that is not quite gone is waited for", fenceLeaving},
}

// lost is a lease that was lost, with a fenced transaction of its own that goes on.
type lost struct {
	ctx context.Context // that Hold gave
	tx  *sql.Tx         // fenced
	pid int             // of its session
	end func()          // lets Hold's function return
}

// lose takes the lock, begins a transaction with before, and ends the session of the
// lock.
func lose(t *testing.T, tg Target, before func(ctx context.Context, tx *sql.Tx) error) lost {
	t.Helper()
	db, admin, key := tg.open(t), tg.admin(t), keyOf(t)
	begun, done := make(chan lost, 1), make(chan struct{})
	returned := await.Go(func() error {
		return advisorylock.Hold(tg.ctx(t), db, key, func(ctx context.Context) error {
			// At a higher level it would keep a snapshot.
			tx, err := db.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			if err == nil {
				err = before(ctx, tx)
			}
			if err != nil {
				t.Error(err)
			}
			pid := sqltest.Rows(t, tx, "SELECT FROM pg_catalog.generate_series(1, pg_catalog.pg_backend_pid())")
			begun <- lost{ctx: context.WithoutCancel(ctx), tx: tx, pid: pid}
			<-done
			return nil
		})
	})
	old := await.Value(t, begun)
	locktest.Terminate(t, admin, key)
	old.end = func() {
		close(done)
		wantIs(t, await.Value(t, returned), advisorylock.ErrLost)
	}
	t.Cleanup(func() { _ = old.tx.Rollback() })
	return old
}

// numberOf is the number of the lease that ctx carries.
func numberOf(t *testing.T, ctx context.Context) string {
	t.Helper()
	statement, err := fence.SQL(ctx)
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`pg_try_advisory_xact_lock_shared\((-?\d+)\)`).FindStringSubmatch(statement)
	if call == nil {
		t.Fatalf("no number in %q", statement)
	}
	return call[1]
}

func unfenced(context.Context, *sql.Tx) error { return nil }

func tryHold(ctx context.Context, db *sql.DB, key advisorylock.Key) error {
	return advisorylock.TryHold(ctx, db, key, locktest.None)
}

func fenceRoundTrip(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db := tg.open(t)
	rec, other := tg.record(t)
	err := advisorylock.Hold(ctx, db, key, func(ctx context.Context) error {
		tx, err := other.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		return errors.Join(advisorylock.Fence(ctx, tx), tx.Commit())
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCalls(t, rec, "connect > begin > exec > commit > release")
}

func fenceKeepsOut(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	next, admin := tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE TABLE public.indexed_while_draining (n int)")

	// Control: without a fence the next one begins while the old transaction lasts.
	old := lose(t, tg, unfenced)
	await.Until(t, "the lock of a session that is gone", func() error { return tryHold(ctx, next, key) })
	old.end()

	for end, finish := range map[string]func(tx *sql.Tx) error{
		"commit":   (*sql.Tx).Commit,
		"rollback": (*sql.Tx).Rollback,
	} {
		old := lose(t, tg, advisorylock.Fence)
		wantIs(t, tryHold(ctx, next, key), advisorylock.ErrNotAcquired)
		granted := holdReported(t, ctx, next, key, old.pid)
		// A next holder that blocked for the fence would keep a snapshot, for which the
		// CREATE INDEX CONCURRENTLY of a holder that is stuck would wait, for ever.
		sqltest.Exec(t, admin, "CREATE INDEX CONCURRENTLY ON public.indexed_while_draining (n)")
		// In a fence, a second one changes nothing.
		wantIs(t, late(ctx, old.ctx, old.tx), advisorylock.ErrLost)
		if err := finish(old.tx); err != nil {
			t.Errorf("%s: %v", end, err)
		}
		if err := await.Value(t, granted); err != nil {
			t.Errorf("after the %s: got %v; want the lock", end, err)
		}
		old.end()
	}
}

// holdReported waits for key in the background, and returns once that has lasted: while
// a transaction of an earlier lease, or what is left of its session, keeps it out. The
// report names that session.
func holdReported(t *testing.T, ctx context.Context, db *sql.DB, key advisorylock.Key, pid int) <-chan error {
	t.Helper()
	locker, lasting := locktest.Lasting(advisorylock.Locker{})
	granted := await.Go(func() error { return locker.Hold(ctx, db, key, locktest.None) })
	if w := locktest.AwaitReport(t, lasting, granted); pid != 0 && (len(w.Holders) != 1 || w.Holders[0].PID != pid) {
		t.Errorf("got %+v of the wait; want process %d named", w, pid)
	}
	return granted
}

// late asks the server, as another program does, whether the lease of old lives.
func late(ctx, old context.Context, tx *sql.Tx) error {
	statement, err := fence.SQL(old)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "SAVEPOINT late; "+statement)
	_, undone := tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT late")
	if sqlstate.Of(err) == "22P02" && strings.Contains(err.Error(), "the lock was lost") {
		return errors.Join(advisorylock.ErrLost, undone)
	}
	return errors.Join(err, undone)
}

func fenceRefusesLate(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	next := tg.open(t)
	old := lose(t, tg, unfenced)
	when := map[string]func(check func()){
		"nobody has the lock": func(check func()) { check() },
		"the next one has it": func(check func()) {
			err := advisorylock.Hold(ctx, next, key, func(context.Context) error { check(); return nil })
			if err != nil {
				t.Error(err)
			}
		},
	}
	for name, during := range when {
		during(func() {
			// Two at once: late ones do not take each other for the lease.
			for range 2 {
				tx, err := next.BeginTx(ctx, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback() //nolint:errcheck // nothing was changed
				if err := advisorylock.Fence(old.ctx, tx); !errors.Is(err, advisorylock.ErrLost) {
					t.Errorf("%s: got %v; want ErrLost", name, err)
				}
				if err := late(ctx, old.ctx, tx); !errors.Is(err, advisorylock.ErrLost) {
					t.Errorf("%s: got %v from the server; want the lease lost", name, err)
				}
			}
		})
	}
	old.end()
	// After Hold has returned.
	wantIs(t, advisorylock.Fence(old.ctx, old.tx), advisorylock.ErrLost)
}

func fenceIsolation(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db, admin := tg.open(t), tg.admin(t)
	sqltest.Exec(t, admin, "CREATE TABLE public.fenced_levels (n int)")
	for i, opts := range []*sql.TxOptions{
		{Isolation: sql.LevelReadCommitted},
		{Isolation: sql.LevelRepeatableRead},
		{Isolation: sql.LevelSerializable},
		{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
	} {
		err := advisorylock.Hold(ctx, db, key, func(ctx context.Context) error {
			tx, err := db.BeginTx(ctx, opts)
			if err != nil {
				return err
			}
			defer tx.Rollback() //nolint:errcheck // nothing was changed
			sqltest.Exec(t, admin, "INSERT INTO public.fenced_levels VALUES (1)")
			if err := advisorylock.Fence(ctx, tx); err != nil {
				return err
			}
			if n := sqltest.Rows(t, tx, "SELECT FROM public.fenced_levels"); n < i+1 {
				t.Errorf("%v: got %d rows; want what was committed before Fence", opts.Isolation, n)
			}
			sqltest.Exec(t, admin, "INSERT INTO public.fenced_levels VALUES (2)")
			n := sqltest.Rows(t, tx, "SELECT FROM public.fenced_levels WHERE n OPERATOR(pg_catalog.=) 2")
			if want := i; opts.Isolation != sql.LevelReadCommitted && n != want {
				t.Errorf("%v: got %d rows of later commits; want the snapshot of Fence, %d", opts.Isolation, n, want)
			}
			locktest.Terminate(t, admin, key)
			wantIs(t, tryHold(tg.ctx(t), admin, key), advisorylock.ErrNotAcquired)
			return nil
		})
		wantIs(t, err, advisorylock.ErrLost)
	}
}

func fenceNested(t *testing.T, tg Target) {
	ctx, outer := tg.ctx(t), keyOf(t)
	inner := outer + 1
	db, admin := tg.open(t), tg.admin(t)
	err := advisorylock.Hold(ctx, db, outer, func(outerCtx context.Context) error {
		return advisorylock.Hold(outerCtx, db, inner, func(innerCtx context.Context) error {
			locktest.Terminate(t, admin, inner)
			innerCtx, outerCtx := context.WithoutCancel(innerCtx), context.WithoutCancel(outerCtx)
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback() //nolint:errcheck // nothing was changed
			wantIs(t, late(ctx, innerCtx, tx), advisorylock.ErrLost)
			if err := late(ctx, outerCtx, tx); err != nil {
				t.Errorf("got %v for the outer lease; want nil", err)
			}
			return advisorylock.Fence(outerCtx, tx)
		})
	})
	wantIs(t, err, advisorylock.ErrLost)
}

func fenceIdleLimit(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	db := tg.open(t)
	err := advisorylock.Locker{TTL: 90 * time.Second}.Hold(ctx, db, key, func(ctx context.Context) error {
		for before, want := range map[string]string{"0": "90s", "1min": "1min", "1500ms": "1500ms", "2min": "90s", "90s": "90s", "1d": "90s"} {
			for name, check := range map[string]func(tx *sql.Tx) error{
				"Fence": func(tx *sql.Tx) error { return advisorylock.Fence(ctx, tx) },
				"SQL":   func(tx *sql.Tx) error { return late(ctx, ctx, tx) },
			} {
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				sqltest.Exec(t, tx, "SET LOCAL idle_in_transaction_session_timeout = '"+before+"'; SET LOCAL intervalstyle = 'sql_standard'")
				// Not to be undone by the savepoint in late.
				if err := check(tx); err != nil {
					t.Error(err)
				}
				if name == "SQL" {
					statement, _ := fence.SQL(ctx)
					sqltest.Exec(t, tx, statement)
				}
				if sqltest.Rows(t, tx, "SELECT WHERE pg_catalog.current_setting('idle_in_transaction_session_timeout')::pg_catalog.interval OPERATOR(pg_catalog.=) '"+want+"'::pg_catalog.interval") != 1 {
					t.Errorf("%s, limit of %s before: got another; want %s", name, before, want)
				}
				sqltest.Commit(t, tx)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// fenceLeaving: a server process frees its locks one after another. One that was
// interrupted after the lock, and before the number, was seen in 4 of 100
// takeovers: the next one began, and the old one's transactions passed.
func fenceLeaving(t *testing.T, tg Target) {
	ctx, key := tg.ctx(t), keyOf(t)
	next, admin := tg.open(t), tg.admin(t)
	old := lose(t, tg, unfenced)
	number := numberOf(t, old.ctx)
	leaving := sqltest.Begin(t, admin)
	sqltest.Exec(t, leaving, fmt.Sprintf("SELECT pg_advisory_xact_lock(%s)", number))
	wantIs(t, tryHold(ctx, next, key), advisorylock.ErrNotAcquired)
	granted := holdReported(t, ctx, next, key, 0)
	sqltest.Commit(t, leaving)
	if err := await.Value(t, granted); err != nil {
		t.Error(err)
	}

	// Control: a transaction that was late has the number in shared mode.
	late := sqltest.Begin(t, admin)
	sqltest.Exec(t, late, fmt.Sprintf("SELECT pg_advisory_xact_lock_shared(%s)", number))
	if err := tryHold(ctx, next, key); err != nil {
		t.Errorf("got %v beside a transaction that was late; want the lock", err)
	}
	sqltest.Commit(t, late)
	old.end()
}
