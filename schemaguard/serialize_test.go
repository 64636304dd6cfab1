//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

const (
	created = "connect > begin > lock > create schema > commit > release"
	leased  = "connect > begin > lock > migrate > commit > release"
	refused = "connect > begin > lock! > rollback > release" // somebody else has it
	waited  = "connect > begin > lock > commit > release"    // in shared mode
)

func answer(done bool, err error) func(context.Context, *sql.DB) (bool, error) {
	return func(context.Context, *sql.DB) (bool, error) { return done, err }
}

// The lease is a second transaction, on a second key, and migrate has the rest
// of the pool.
func TestSerialize(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db.SetMaxOpenConns(2)
	key := int64(schemaguard.MigrateKey(schemaguard.KeyFor("app")))
	err := f.ensureWith(t.Context(), schemaguard.Guard{Serialize: true}, func(ctx context.Context, db *sql.DB) error {
		if held := f.Server().Held(); len(held) != 2 || held[key] != 1 {
			t.Errorf("locks held during migrate: %v; want only %d, and the number of its lease", held, key)
		}
		_, err := db.ExecContext(ctx, "CREATE TABLE app.t ()")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.wantOrder(t, created+" > "+leased)
	sent := f.sent()
	if len(sent) != 8 {
		t.Fatalf("sent %q; want 8 statements", sent)
	}
	if lease := sent[5]; !strings.Contains(lease, schemaguard.MigrateKey(schemaguard.KeyFor("app")).String()) ||
		!strings.Contains(lease, "idle_in_transaction_session_timeout = '30000ms'") {
		t.Errorf("the lease was taken by %q; want the migrate key, for 30 s", lease)
	}
	sent[5] = "the lease"
	wantSent(t, sent, "BEGIN", lockApp, createApp, "COMMIT", "BEGIN", "the lease", "CREATE TABLE app.t ()", "COMMIT")
}

// Migrate is the same under a name of its own, which its errors have too.
func TestMigrateSerializes(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	f := newFixture(t)
	f.db.SetMaxOpenConns(2)
	var held map[int64]int
	err := schemaguard.Migrate(t.Context(), f.db, "app", func(_ context.Context, db *sql.DB) error {
		held = f.Server().Held()
		if db != f.db {
			t.Error("migrate was not called with the pool")
		}
		return boom
	})
	if got, want := fmt.Sprint(err), "schemaguard.Migrate app: migrate: boom"; got != want || !errors.Is(err, boom) {
		t.Errorf("got error %q; want %q", got, want)
	}
	if key := int64(schemaguard.MigrateKey(schemaguard.KeyFor("app"))); held[key] != 1 {
		t.Errorf("migrate ran with locks %v; want %d among them", held, key)
	}
	err = schemaguard.Migrate(t.Context(), f.db, "", nil)
	if got, want := fmt.Sprint(err), `schemaguard.Migrate "": the schema name is empty`; got != want {
		t.Errorf("got error %q; want %q", got, want)
	}
}

// Key and TTL are the lease's too.
func TestSerializeOptions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db.SetMaxOpenConns(2)
	if err := f.ensure(schemaguard.Guard{Serialize: true, Key: 42, TTL: 7 * time.Second}); err != nil {
		t.Fatal(err)
	}
	locks := slices.DeleteFunc(f.sent(), func(s string) bool { return !strings.Contains(s, "advisory") })
	if len(locks) != 2 {
		t.Fatalf("got locks %q; want 2", locks)
	}
	for i, key := range []advisorylock.Key{42, schemaguard.MigrateKey(42)} {
		if !strings.Contains(locks[i], "("+key.String()+")") || !strings.Contains(locks[i], "= '7000ms'") {
			t.Errorf("got lock %q; want key %d and 7 s", locks[i], key)
		}
	}
}

// A pool of one has no connection for both the lease and migrate, which would
// hang for ever. That is said before the schema is there without its tables.
func TestSerializeOnAPoolOfOne(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]schemaguard.Guard{"serialize": {Serialize: true}, "once": {UpToDate: answer(false, nil)}} {
		f := newFixture(t)
		err := f.ensureWith(t.Context(), g, func(context.Context, *sql.DB) error {
			t.Errorf("%s: migrate was called", name)
			return nil
		})
		wantStep(t, err, locktrace.Connect)
		if !errors.Is(err, advisorylock.ErrPoolTooSmall) {
			t.Errorf("%s: got error %v; want ErrPoolTooSmall", name, err)
		}
		if sent := f.sent(); len(sent) > 0 {
			t.Errorf("%s: sent %q; want nothing", name, sent)
		}
	}
}

func TestSerializeFailures(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		hook  func(context.Context, *recdriver.Call) error
		err   error // of migrate
		step  locktrace.Step
		order string
	}{
		"begin":   {recdriver.FailOn(recdriver.Begin, "", 2, boom), nil, locktrace.Begin, "connect > begin! > release"},
		"lock":    {recdriver.FailOn(recdriver.Exec, "advisory", 2, boom), nil, locktrace.Lock, "connect > begin > lock! > rollback > release"},
		"migrate": {nil, boom, locktrace.Migrate, "connect > begin > lock > migrate! > rollback > release"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.db.SetMaxOpenConns(2)
			if test.hook != nil {
				f.OnCall(test.hook)
			}
			err := f.ensureWith(t.Context(), schemaguard.Guard{Serialize: true}, func(context.Context, *sql.DB) error { return test.err })
			wantStep(t, err, test.step)
			if !errors.Is(err, boom) {
				t.Errorf("got error %v; want it to wrap boom", err)
			}
			f.wantOrder(t, created+" > "+test.order)
		})
	}
}

// An error of the user's own code that is ErrNotAcquired, from a lock of its own,
// does not mean that another process has migrate's lock: migrate runs once.
func TestNotAcquiredByTheUsersOwnLock(t *testing.T) {
	t.Parallel()
	own := fmt.Errorf("my own lock: %w", advisorylock.ErrNotAcquired)
	for step, at := range map[locktrace.Step]int{locktrace.Migrate: 1, locktrace.UpToDate: 2} {
		f := newFixture(t)
		f.db.SetMaxOpenConns(2)
		asked, migrated := 0, 0
		err := f.ensureWith(t.Context(), schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) {
			if asked++; asked == at && step == locktrace.UpToDate {
				return false, own
			}
			return false, nil
		}}, func(context.Context, *sql.DB) error {
			migrated++
			return own
		})
		wantStep(t, err, step)
		if !errors.Is(err, own) {
			t.Errorf("got error %v; want it to wrap %v", err, own)
		}
		if want := 2 - at; migrated != want || asked != 2 {
			t.Errorf("%s fails: asked %d times and migrated %d times; want 2 and %d", step, asked, migrated, want)
		}
	}
}

// The second start of a fleet costs nothing but the question.
func TestUpToDateAtTheStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	err := f.ensureWith(t.Context(), schemaguard.Guard{UpToDate: answer(true, nil), SkipIfExists: true},
		func(context.Context, *sql.DB) error {
			t.Error("migrate was called")
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(f.Calls()); n != 0 {
		t.Errorf("got %s; want nothing", f)
	}
	f.wantOrder(t, "up to date")
}

// Where there is no table or no schema yet, it is the first start of all; any
// other error might hide that everything is done, or that nothing can be.
func TestUpToDateErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err   recdriver.SQLError
		first bool
	}{
		"undefined table":   {recdriver.SQLError{Code: "42P01", Message: `relation "app.version" does not exist`}, true},
		"undefined schema":  {recdriver.SQLError{Code: "3F000", Message: `schema "app" does not exist`}, true},
		"undefined column":  {recdriver.SQLError{Code: "42703", Message: `column "v" does not exist`}, false},
		"permission denied": {recdriver.SQLError{Code: "42501", Message: "permission denied"}, false},
	} {
		for style, as := range styles {
			t.Run(name+"/"+style, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t)
				f.db.SetMaxOpenConns(2)
				err := f.ensure(schemaguard.Guard{UpToDate: answer(false, as(test.err))})
				if test.first {
					if err != nil {
						t.Errorf("got error %v; want none", err)
					}
					f.wantOrder(t, "up to date > "+created+" > connect > begin > lock > up to date > migrate > commit > release")
					return
				}
				wantStep(t, err, locktrace.UpToDate)
				if !errors.Is(err, as(test.err)) {
					t.Errorf("got error %v; want it to wrap UpToDate's", err)
				}
				f.wantOrder(t, "up to date!")
			})
		}
	}
}

// The plainest UpToDate there is scans a count and returns count == 0 and the
// error. Without a table the count stays zero: true, with an error that says
// that nothing was ever migrated.
func TestUpToDateErrorCountsAsFalse(t *testing.T) {
	t.Parallel()
	for _, missing := range []recdriver.SQLError{
		{Code: "42P01", Message: `relation "app.pending" does not exist`},
		{Code: "3F000", Message: `schema "app" does not exist`},
	} {
		f := newFixture(t)
		f.db.SetMaxOpenConns(2)
		migrated := false
		err := f.ensureWith(t.Context(), schemaguard.Guard{UpToDate: answer(true, missing)}, func(context.Context, *sql.DB) error {
			migrated = true
			return nil
		})
		if err != nil || !migrated {
			t.Errorf("%v: got %v, migrated %t; want migrate called, since this is the first start", missing, err, migrated)
		}
	}
}

func TestUpToDateFailsUnderTheLease(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	f := newFixture(t)
	f.db.SetMaxOpenConns(2)
	asked := 0
	err := f.ensureWith(t.Context(), schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) {
		if asked++; asked == 2 {
			return false, boom
		}
		return false, nil
	}}, func(context.Context, *sql.DB) error {
		t.Error("migrate was called")
		return nil
	})
	wantStep(t, err, locktrace.UpToDate)
	if !errors.Is(err, boom) {
		t.Errorf("got error %v; want UpToDate's", err)
	}
	f.wantOrder(t, "up to date > "+created+" > connect > begin > lock > up to date! > rollback > release")
}

// fleet is N processes on one server that start with the same guard.
type fleet struct {
	server   *recdriver.Server
	all      []*fixture
	done     atomic.Bool // what UpToDate finds
	migrates atomic.Int32
	ended    chan error // gets each process's error
	errs     []error
}

func newFleet(t *testing.T, n int) *fleet {
	fl := &fleet{server: recdriver.NewServer(), ended: make(chan error, n), errs: make([]error, n)}
	modes := []recdriver.Mode{recdriver.Plain, recdriver.PGX, recdriver.LibPQ}
	for i := range n {
		f := newProcess(t, fl.server.Driver(modes[i%len(modes)]))
		f.db.SetMaxOpenConns(2)
		fl.all = append(fl.all, f)
	}
	return fl
}

// start starts all of them, and returns when all are through.
func (fl *fleet) start(t *testing.T, g schemaguard.Guard, migrate func(ctx context.Context, call int32) error) {
	if g.UpToDate != nil {
		g.UpToDate = func(context.Context, *sql.DB) (bool, error) { return fl.done.Load(), nil }
	}
	barrier := make(chan struct{})
	var wg sync.WaitGroup
	for i, f := range fl.all {
		wg.Add(1)
		go func() {
			defer wg.Done()
			<-barrier
			fl.errs[i] = f.ensureWith(t.Context(), g, func(ctx context.Context, _ *sql.DB) error {
				return migrate(ctx, fl.migrates.Add(1))
			})
			fl.ended <- fl.errs[i]
		}()
	}
	close(barrier)
	wg.Wait()
}

// othersWait returns when n others wait for the migrate key on the server. None
// of them may end before.
func (fl *fleet) othersWait(ctx context.Context, n int) error {
	key := int64(schemaguard.MigrateKey(schemaguard.KeyFor("app")))
	for fl.server.Waiting()[key] != n {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-fl.ended:
			return fmt.Errorf("a process did not wait; it ended with: %w", err)
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// orders counts the orders of calls that the processes were seen to make.
func (fl *fleet) orders() map[string]int {
	orders := map[string]int{}
	for _, f := range fl.all {
		orders[f.rec.String()]++
	}
	return orders
}

func (fl *fleet) wantOrders(t *testing.T, want map[string]int) {
	t.Helper()
	got := fl.orders()
	for order, n := range want {
		if got[order] != n {
			t.Errorf("%d processes made %s; want %d", got[order], order, n)
		}
		delete(got, order)
	}
	for order, n := range got {
		t.Errorf("%d processes made %s; want none", n, order)
	}
}

func (fl *fleet) failed() (n int, err error) {
	for _, e := range fl.errs {
		if e != nil {
			n, err = n+1, e
		}
	}
	return n, err
}

const (
	winner = "up to date > " + created + " > connect > begin > lock > up to date > migrate > commit > release"
	loser  = "up to date > " + created + " > " + refused + " > " + waited + " > up to date"
)

// One migrates, while all others wait in shared mode; then all of them go on
// together, without a turn each.
func TestFleetMigratesOnce(t *testing.T) {
	t.Parallel()
	const n = 12
	fl := newFleet(t, n)
	fl.start(t, schemaguard.Guard{UpToDate: answer(false, nil)}, func(ctx context.Context, _ int32) error {
		err := fl.othersWait(ctx, n-1)
		fl.done.Store(true)
		return err
	})
	if failed, err := fl.failed(); failed > 0 {
		t.Errorf("%d processes failed, one with %v", failed, err)
	}
	if got := fl.migrates.Load(); got != 1 {
		t.Errorf("migrate ran %d times; want 1", got)
	}
	fl.wantOrders(t, map[string]int{winner: 1, loser: n - 1})
}

// The waiters have the lock at the same time: each of them keeps it until all
// of them have it, which would hang if they had it one after the other.
func TestFleetGoesOnTogether(t *testing.T) {
	t.Parallel()
	const n = 8
	fl := newFleet(t, n)
	var have atomic.Int32
	for _, f := range fl.all {
		var shared atomic.Bool
		f.OnCall(func(_ context.Context, c *recdriver.Call) error {
			if strings.Contains(c.Query, "_xact_lock_shared") {
				shared.Store(true)
			}
			if c.Kind == recdriver.Commit && shared.Load() {
				have.Add(1)
				for start := time.Now(); have.Load() < n-1 && time.Since(start) < 4*time.Second; {
					time.Sleep(time.Millisecond)
				}
				if got := have.Load(); got < n-1 {
					t.Errorf("%d waiters have the lock; want all %d at once", got, n-1)
				}
			}
			return nil
		})
	}
	fl.start(t, schemaguard.Guard{UpToDate: answer(false, nil)}, func(ctx context.Context, _ int32) error {
		err := fl.othersWait(ctx, n-1)
		fl.done.Store(true)
		return err
	})
	if failed, err := fl.failed(); failed > 0 {
		t.Errorf("%d processes failed, one with %v", failed, err)
	}
	if got := have.Load(); got != n-1 {
		t.Errorf("%d processes waited in shared mode; want %d", got, n-1)
	}
}

// When the winner fails, exactly one other has a try; the rest go on after that.
func TestFleetWinnerFails(t *testing.T) {
	t.Parallel()
	const n = 8
	boom := errors.New("boom")
	fl := newFleet(t, n)
	fl.start(t, schemaguard.Guard{UpToDate: answer(false, nil)}, func(ctx context.Context, call int32) error {
		if call == 1 {
			if err := fl.othersWait(ctx, n-1); err != nil {
				return err
			}
			return boom
		}
		fl.done.Store(true)
		return nil
	})
	failed, err := fl.failed()
	if failed != 1 || !errors.Is(err, boom) {
		t.Errorf("%d processes failed, one with %v; want 1, with boom", failed, err)
	}
	if got := fl.migrates.Load(); got != 2 {
		t.Errorf("migrate ran %d times; want 2: the one that failed, and one other", got)
	}
	first := "up to date > " + created + " > connect > begin > lock > up to date > migrate! > rollback > release"
	second := loser + " > connect > begin > lock > up to date > migrate > commit > release"
	orders := fl.orders()
	if orders[first] != 1 || orders[second] != 1 {
		t.Errorf("got orders %v; want one %s and one %s", orders, first, second)
	}
}

// The server ends the winner's session: the winner's context ends, and exactly
// one other migrates.
func TestFleetWinnerDies(t *testing.T) {
	t.Parallel()
	const n = 6
	fl := newFleet(t, n)
	key := int64(schemaguard.MigrateKey(schemaguard.KeyFor("app")))
	var cause error
	fl.start(t, schemaguard.Guard{UpToDate: answer(false, nil), TTL: 5 * time.Second}, func(ctx context.Context, call int32) error {
		if call == 1 {
			if err := fl.othersWait(ctx, n-1); err != nil {
				return err
			}
			fl.server.Kill(key)
			<-ctx.Done()
			cause = context.Cause(ctx)
			return cause
		}
		fl.done.Store(true)
		return nil
	})
	if !errors.Is(cause, advisorylock.ErrLost) {
		t.Errorf("the winner's context ended with %v; want ErrLost", cause)
	}
	if failed, err := fl.failed(); failed != 1 || !errors.Is(err, advisorylock.ErrLost) {
		t.Errorf("%d processes failed, one with %v; want 1, with ErrLost", failed, err)
	}
	if got := fl.migrates.Load(); got != 2 {
		t.Errorf("migrate ran %d times; want 2: the one that died, and one other", got)
	}
}

// Serialize alone: everybody migrates, and no two at a time. The control group
// is a fleet without it, which is seen to migrate at the same time.
func TestFleetSerialized(t *testing.T) {
	t.Parallel()
	const n = 6
	overlaps := func(g schemaguard.Guard) (overlapped bool, fl *fleet) {
		fl = newFleet(t, n)
		var now, most atomic.Int32
		fl.start(t, g, func(ctx context.Context, call int32) (err error) {
			if m := now.Add(1); m > most.Load() {
				most.Store(m)
			}
			defer now.Add(-1)
			if call > 1 {
				return nil
			}
			if g.Serialize { // the first stays until all others stand in line
				return fl.othersWait(ctx, n-1)
			}
			for fl.migrates.Load() < n && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		if failed, err := fl.failed(); failed > 0 {
			t.Errorf("%d processes failed, one with %v", failed, err)
		}
		if got := fl.migrates.Load(); got != n {
			t.Errorf("migrate ran %d times; want %d", got, n)
		}
		return most.Load() > 1, fl
	}
	if overlapped, _ := overlaps(schemaguard.Guard{}); !overlapped {
		t.Error("the control group, without Serialize, never migrated at the same time: this proves nothing")
	}
	overlapped, fl := overlaps(schemaguard.Guard{Serialize: true})
	if overlapped {
		t.Error("two processes migrated at the same time")
	}
	fl.wantOrders(t, map[string]int{created + " > " + leased: n})
}

// All of one process's components start on one pool: they queue inside the
// process, where the lease must not take the connection that migrate needs.
func TestFleetInOneProcess(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db.SetMaxOpenConns(2)
	var done atomic.Bool
	var migrates atomic.Int32
	g := schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) { return done.Load(), nil }}
	errs := make(chan error)
	const n = 10
	for range n {
		go func() {
			errs <- g.Ensure(t.Context(), f.db, "app", func(ctx context.Context, db *sql.DB) error {
				migrates.Add(1)
				_, err := db.ExecContext(ctx, "CREATE TABLE app.t ()")
				done.Store(true)
				return err
			})
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := migrates.Load(); got != 1 {
		t.Errorf("migrate ran %d times; want 1", got)
	}
}

// A migrate that starts the same again, with the context it was given, would
// wait for itself for ever.
func TestSerializeNested(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db.SetMaxOpenConns(3)
	g := schemaguard.Guard{Serialize: true}
	none := func(context.Context, *sql.DB) error { return nil }
	err := f.ensureWith(t.Context(), g, func(ctx context.Context, db *sql.DB) error {
		return g.Ensure(ctx, db, "app", none)
	})
	if !errors.Is(err, advisorylock.ErrNested) {
		t.Errorf("got error %v; want ErrNested", err)
	}
}

// Even if migrate returned nil, the lease may have been lost before its end;
// the error says where, as all errors of Ensure do.
func TestLostLeaseSaysWhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db.SetMaxOpenConns(2)
	err := f.ensureWith(t.Context(), schemaguard.Guard{Serialize: true}, func(context.Context, *sql.DB) error {
		f.Server().Kill(int64(schemaguard.MigrateKey(schemaguard.KeyFor("app"))))
		return nil
	})
	if !errors.Is(err, advisorylock.ErrLost) {
		t.Errorf("got error %v; want ErrLost", err)
	}
	var failed *locktrace.StepError
	if !errors.As(err, &failed) || failed.Op != "schemaguard.Ensure" || failed.Name != "app" {
		t.Errorf("got error %v; want a StepError of schemaguard.Ensure", err)
	}
}

// Who has waited in vain for the winner has not migrated, and must not say so.
func TestContextEndsWhileTheWinnerMigrates(t *testing.T) {
	t.Parallel()
	server := recdriver.NewServer()
	f, winner := newProcess(t, server.Driver(recdriver.Plain)), newProcess(t, server.Driver(recdriver.Plain))
	f.db.SetMaxOpenConns(2)
	key := schemaguard.MigrateKey(schemaguard.KeyFor("app"))
	err := advisorylock.WithXactLock(t.Context(), winner.db, key, func(context.Context, *sql.Tx) error {
		ctx, cancel := context.WithCancel(t.Context())
		waits := f.Started(recdriver.Exec, "_shared("+key.String(), 1)
		go func() {
			<-waits
			cancel()
		}()
		err := f.ensureWith(ctx, schemaguard.Guard{UpToDate: answer(false, nil)}, func(context.Context, *sql.DB) error {
			t.Error("migrate was called")
			return nil
		})
		wantStep(t, err, locktrace.Lock)
		if !errors.As(err, new(*advisorylock.WaitError)) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v; want a WaitError with the end of the context", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Under a lock the end of the context may mean that the lock is lost, without it
// that nobody waits for migrate any more.
func TestMigrateIsNotCalledAfterTheEnd(t *testing.T) {
	t.Parallel()
	for name, guard := range map[string]schemaguard.Guard{"plain": {}, "Serialize": {Serialize: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.db.SetMaxOpenConns(2)
			ctx, cancel := context.WithCancel(t.Context())
			guard.Trace = &locktrace.Trace{Done: func(_ context.Context, e locktrace.Event) {
				if e.Step == locktrace.Release || guard.Serialize && e.Step == locktrace.Lock && e.For == locktrace.Migrate {
					cancel()
				}
			}}
			err := guard.Ensure(ctx, f.db, "app", func(context.Context, *sql.DB) error {
				t.Error("migrate was called")
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v; want the end of the context", err)
			}
		})
	}
}
