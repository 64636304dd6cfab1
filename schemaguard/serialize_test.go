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

// The lease is a second transaction, on a second key, and migrate has the rest of the
// pool. Migrate is the same under a name of its own, which its errors have too.
func TestMigrate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, 2)
		err := schemaguard.Migrate(t.Context(), f.db, "app", func(ctx context.Context, db *sql.DB) error {
			if held := f.world.Held(); len(held) != 2 || held[int64(migrateApp)] != 1 || db != f.db {
				t.Errorf("locks held during migrate: %v; want only %d, and the number of its lease", held, migrateApp)
			}
			_, _ = db.ExecContext(ctx, "CREATE TABLE app.t ()")
			return errBoom
		})
		if got, want := fmt.Sprint(err), "schemaguard.Migrate app: migrate: boom"; got != want || !errors.Is(err, errBoom) {
			t.Errorf("got error %q; want %q", got, want)
		}
		f.wantSent(t, "BEGIN", "lock", createApp, "COMMIT", "BEGIN", "lease", "SELECT 1", "CREATE TABLE app.t ()", "ROLLBACK")
		err = schemaguard.Migrate(t.Context(), f.db, "", nil)
		wantText(t, err, `schemaguard.Migrate "": the schema name is empty`)
	})
}

// A pool of one has no connection for both the lease and migrate, which would
// hang for ever. That is said before the schema is there without its tables.
func TestSerializeOnAPoolOfOne(t *testing.T) {
	each(t, map[string]schemaguard.Guard{
		"serialize": {Serialize: true}, "up to date": {UpToDate: answer(false)}, "once": {Once: "v1"},
	}, func(t *testing.T, g schemaguard.Guard) {
		f := newFixture(t, 1)
		err := f.ensureWith(t.Context(), g, notCalled(t))
		wantStep(t, err, locktrace.Connect, advisorylock.ErrPoolTooSmall)
		wantText(t, err, "LockDB", "1 connection,", "2")
		if sent := f.sent(); slices.Contains(sent, "BEGIN") {
			t.Errorf("sent %q; want no transaction", sent)
		}
	})
}

// What does not exist yet says that this is the first start of all, whatever else the
// question answers: the plainest one there is returns count == 0 and the error. What a
// pooler lost is asked again. Any other error might hide that everything is done, or
// that nothing can be; words do not make an error one of the server's.
func TestUpToDateErrors(t *testing.T) {
	const migrated = "up to date > " + created + " > connect > begin > lock > up to date > migrate > commit > release"
	type test struct {
		err   recdriver.SQLError
		order string
	}
	tests := map[string]test{
		"42501":    {recdriver.SQLError{Code: "42501"}, "up to date!"},
		"XX000":    {recdriver.SQLError{Code: "XX000"}, "up to date!"},
		"words":    {recdriver.SQLError{Code: "P0001", Message: "my service has too many connections"}, "up to date!"},
		"26000":    {recdriver.SQLError{Code: "26000"}, "up to date"},
		"42P05":    {recdriver.SQLError{Code: "42P05"}, "up to date"},
		"53300":    {recdriver.SQLError{Code: "53300"}, "up to date"},
		"pgbouncr": {recdriver.SQLError{Code: "08P01", Message: "no more connections allowed (max_client_conn)"}, "up to date"},
	}
	for _, code := range []string{"42P01", "3F000", "42703", "42883", "42704"} {
		tests[code] = test{recdriver.SQLError{Code: code}, migrated}
	}
	each(t, tests, func(t *testing.T, test test) {
		f := newFixture(t, 2)
		asked := 0
		err := f.ensure(t, schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) {
			if asked++; asked == 3 && test.order == "up to date" {
				return true, nil
			}
			return true, test.err
		}})
		f.wantOrder(t, test.order)
		if strings.HasSuffix(test.order, "!") {
			wantStep(t, err, locktrace.UpToDate, test.err)
		} else if err != nil {
			t.Error(err)
		}
	})
}

// With pgx's defaults behind an old PgBouncer, every server connection may have the
// statement under that name from another client, and then no answer comes, ever.
func TestPoolerThatMixesUpStatements(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, 2)
		asked, mixedUp := 0, recdriver.SQLError{Code: "42P05"}
		err := f.ensure(t, schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) {
			asked++
			return false, mixedUp
		}})
		wantStep(t, err, locktrace.UpToDate, mixedUp)
		wantText(t, err, "default_query_exec_mode")
		if asked != 11 {
			t.Errorf("asked %d times; want 11", asked)
		}
	})
}

// fleet is N processes on one server that start with the same guard.
type fleet struct {
	*world
	all      []*fixture
	done     atomic.Bool // what UpToDate finds
	migrates atomic.Int32
	now      atomic.Int32 // how many migrate at this moment
	overlap  atomic.Bool
	errs     []error
}

func newFleet(t *testing.T, n int) *fleet {
	fl := &fleet{world: newWorld(), errs: make([]error, n)}
	modes := []recdriver.Mode{recdriver.Plain, recdriver.PGX, recdriver.LibPQ}
	for i := range n {
		fl.all = append(fl.all, fl.process(t, modes[i%len(modes)], 2))
	}
	return fl
}

// start starts all of them, and returns when all are through. A migrate takes 3 s, and
// then ends as migrate does, if that is not nil.
func (fl *fleet) start(t *testing.T, g schemaguard.Guard, migrate func(ctx context.Context, call int32) error) {
	t.Helper()
	if g.UpToDate != nil {
		g.UpToDate = func(context.Context, *sql.DB) (bool, error) { return fl.done.Load(), nil }
	}
	var wg sync.WaitGroup
	for i, f := range fl.all {
		wg.Go(func() {
			fl.errs[i] = f.ensureWith(t.Context(), g, func(ctx context.Context, db *sql.DB) error {
				if fl.now.Add(1) > 1 {
					fl.overlap.Store(true)
				}
				defer fl.now.Add(-1)
				time.Sleep(3 * time.Second)
				err, call := migrateAll(ctx, db), fl.migrates.Add(1)
				if migrate != nil {
					err = errors.Join(err, migrate(ctx, call))
				}
				if err == nil {
					fl.done.Store(true)
				}
				return err
			})
		})
	}
	wg.Wait()
}

// orders counts the orders of calls that the processes were seen to make, without what
// only Once does: it records, and late processes leave the schema's transaction out.
func (fl *fleet) orders() map[string]int {
	orders := map[string]int{}
	for _, f := range fl.all {
		orders[strings.NewReplacer(created+" > ", "", "record > ", "").Replace(f.rec.String())]++
	}
	return orders
}

// wantFailed checks that n processes failed, with want, and that migrate ran so often,
// and never twice at once unless a lease was lost.
func (fl *fleet) wantFailed(t *testing.T, n int, want error, migrates int32) {
	t.Helper()
	for _, err := range fl.errs {
		if err != nil {
			n--
			if want == nil || !errors.Is(err, want) {
				t.Errorf("a process failed with %v; want %v", err, want)
			}
		}
	}
	if n != 0 {
		t.Errorf("%d processes too few failed", n)
	}
	overlap := fl.overlap.Load() && !errors.Is(want, advisorylock.ErrLost)
	if got := fl.migrates.Load(); got != migrates || overlap {
		t.Errorf("migrate ran %d times, two at once: %t; want %d times, one at a time", got, overlap, migrates)
	}
}

// onces are the two ways to migrate once.
var onces = map[string]schemaguard.Guard{
	"Once":     {Once: "v1", TTL: 5 * time.Second},
	"UpToDate": {UpToDate: answer(false), TTL: 5 * time.Second},
}

// One migrates, while all others wait; then all of them go on together, without a turn
// each: none of them takes more than a poll and a queue of such.
func TestFleetMigratesOnce(t *testing.T) {
	t.Parallel()
	for name, g := range onces {
		t.Run(name, func(t *testing.T) {
			each(t, map[string]func(w *world){
				"direct": func(*world) {},
				"pooled": func(w *world) { w.SetPooled(true) },
				"short":  func(w *world) { w.SetShort(true) },
			}, func(t *testing.T, set func(*world)) {
				const n = 12
				fl := newFleet(t, n)
				set(fl.world)
				began := time.Now()
				fl.start(t, g, nil)
				fl.wantFailed(t, 0, nil, 1)
				if late := time.Since(began) - 3*time.Second; late > 2*time.Second {
					t.Errorf("the last went on %v after migrate had ended", late)
				}
				orders := fl.orders()
				if orders["up to date > connect > begin > lock > up to date > migrate > commit > release"] != 1 || orders["up to date > "+waited] != n-1 {
					t.Errorf("got orders %v; want one winner and %d that waited", orders, n-1)
				}
			})
		})
	}
}

// When the winner fails, or its session ends, exactly one other has a try; the rest go
// on after that.
func TestFleetWinnerFails(t *testing.T) {
	each(t, onces, func(t *testing.T, g schemaguard.Guard) {
		for _, want := range []error{errBoom, advisorylock.ErrLost} {
			fl := newFleet(t, 6)
			fl.start(t, g, func(ctx context.Context, call int32) error {
				switch {
				case call > 1:
					return nil
				case errors.Is(want, advisorylock.ErrLost):
					fl.Kill(int64(migrateApp))
					<-ctx.Done()
					return context.Cause(ctx)
				}
				return want
			})
			fl.wantFailed(t, 1, want, 2)
		}
	})
}

// Serialize alone: everybody migrates, and no two at a time. The control group
// is a fleet without it, which is seen to migrate at the same time.
func TestFleetSerialized(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 6
		control := newFleet(t, n)
		control.start(t, schemaguard.Guard{}, nil)
		if !control.overlap.Load() {
			t.Error("the control group, without Serialize, never migrated at the same time: this proves nothing")
		}
		fl := newFleet(t, n)
		fl.start(t, schemaguard.Guard{Serialize: true}, nil)
		fl.wantFailed(t, 0, nil, n)
		if got := fl.orders(); got[leased] != n {
			t.Errorf("got orders %v; want all the same", got)
		}
	})
}

// All of one process's components start on one pool: they queue inside the
// process, where the lease must not take the connection that migrate needs.
func TestFleetInOneProcess(t *testing.T) {
	each(t, onces, func(t *testing.T, g schemaguard.Guard) {
		fl := newFleet(t, 10)
		fl.all = slices.Repeat(fl.all[:1], 10)
		fl.start(t, g, nil)
		fl.wantFailed(t, 0, nil, 1)
	})
}
