package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// noLock is the control: what takes no lock must be found out.
func noLock(ctx context.Context, _ *sql.DB, _ advisorylock.Key, fn func(ctx context.Context) error) error {
	return fn(ctx)
}

func TestFleet(t *testing.T) {
	t.Parallel()
	ways := map[string]way{
		"polling": byHand(polling, false), "polling, looks": byHand(polling, true),
		"plain": byHand(plain, false), "plain, looks": byHand(plain, true),
	}
	for _, m := range modes {
		ways[m.name] = m.guarded
	}
	for name, w := range ways {
		for _, driver := range []string{"pgx", "postgres"} {
			t.Run(name+"/"+driver, func(t *testing.T) {
				t.Parallel()
				dsn := pgtest.Shared(t).NewDB(t)
				f := fleet{processes: 3, schemas: 1, limit: await.Limit}
				for range 2 { // the second start finds the migration done
					if got := f.start(t.Context(), driver, dsn, w); got.err != nil || got.hung || got.values[0] <= 0 {
						t.Errorf("got %+v; want no failure", got)
					}
				}
				if n := sqltest.Ask[int](t, sqltest.Open(t, driver, dsn), "SELECT count(*) FROM fleet_0.work"); n != statements-2 {
					t.Errorf("the migration inserted %d rows; want %d", n, statements-2)
				}
			})
		}
	}
}

// Alone, since goose waits five seconds for the next attempt.
func TestGoose(t *testing.T) {
	t.Parallel()
	for name, lock := range map[string]locker{"session": gooseSession, "table": gooseTable} {
		f := fleet{processes: 1, schemas: 1, limit: await.Limit}
		if got := f.start(t.Context(), "pgx", pgtest.Shared(t).NewDB(t), byHand(lock, false)); got.err != nil {
			t.Errorf("%s locker: %v", name, got.err)
		}
	}
}

// All three find that the migration has not run before one of them runs it.
func TestFleetWithoutLockFails(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t).NewDB(t)
	admin := sqltest.Open(t, "pgx", dsn)
	sqltest.Exec(t, admin, "CREATE SCHEMA fleet_0")
	barrier := sqltest.Begin(t, admin)
	if _, err := barrier.Exec("CREATE TABLE fleet_0.work ()"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan figure, 1)
	go func() {
		f := fleet{processes: 3, schemas: 1, limit: await.Limit}
		ended <- f.start(t.Context(), "pgx", dsn, byHand(noLock, true))
	}()
	await.True(t, "all to create the table", func() bool {
		return sqltest.Ask[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 3
	})
	if err := barrier.Rollback(); err != nil {
		t.Fatal(err)
	}
	if got := await.Value(t, ended); got.failed != 3 { // two, and that the migration ran more than once
		t.Errorf("got %+v; want two processes that fail and a migration that ran three times", got)
	}
}

func TestRing(t *testing.T) {
	t.Parallel()
	for name, lock := range map[string]locker{
		"Hold": advisorylock.Hold, "WithXactLock": xactLock, "polling": polling, "plain": plain, "plainXact": plainXact,
	} {
		for _, polite := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				dsn := pgtest.Shared(t).NewDB(t)
				db := sqltest.Open(t, "pgx", dsn)
				over, end := context.WithCancel(t.Context())
				n := 0
				r := newRing(lock, 1, 3, func(context.Context) {
					sqltest.Exec(t, db, "SELECT 1")
					if n++; n == 12 {
						end()
					}
				})
				r.polite = polite
				r.run(t.Context(), over, "pgx", dsn)
				turns := 0.0
				for _, each := range r.turns {
					turns += each
				}
				if r.err != nil || turns != 12 || len(r.handoffs) != 11 {
					t.Errorf("got %v turns, %d handoffs and the error %v; want 12, 11 and none", turns, len(r.handoffs), r.err)
				}
			})
		}
	}
}

func TestRingWithoutLockFails(t *testing.T) {
	t.Parallel()
	over, end := context.WithCancel(t.Context())
	var both sync.WaitGroup
	both.Add(2)
	r := newRing(noLock, 1, 2, func(context.Context) {
		both.Done()
		both.Wait()
		end()
	})
	r.run(t.Context(), over, "pgx", "")
	if !errors.Is(r.err, errOverlap) {
		t.Errorf("got %v; want %v", r.err, errOverlap)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	calls := 0
	give := func(all ...figure) runnable {
		n := 0
		return func(context.Context) (figure, error) {
			calls++
			n++
			return all[(n-1)%len(all)], nil
		}
	}
	of := func(values ...float64) figure { return figure{values: values} }
	failed := figure{values: []float64{7}, failed: 2, err: errors.New("too late")}
	hung := failed
	hung.hung = true
	table := table{
		name: "ways", units: "ms · statements", heads: []string{"a", "b", "c"}, ratios: [][2]int{{0, 1}, {0, 2}},
		rows: []row{
			{name: "three", runs: []runnable{give(of(300, 1), of(100, 20), of(200, 3)), give(of(90.04, 0)), nil}},
			{name: "failing", runs: []runnable{give(failed), give(of(1)), give(hung)}},
			{name: "long", most: 1, runs: []runnable{give(of(1.234), of(2)), give(of(2)), give(of(4))}},
			{name: "unwanted", runs: []runnable{give(), give(), give()}},
		},
	}
	var out bytes.Buffer
	if err := table.measure(t.Context(), &out, regexp.MustCompile("ways: (three|failing|long)"), 3); err != nil {
		t.Fatal(err)
	}
	want := `
ms · statements

| ways | a | b | c | a : b | a : c |
|---|---|---|---|---|---|
| three | 200 · 3 | 90 · 0 |  | 2.22 |  |
| failing | 7 (6 failed) | 1 | 7 (2 failed) |  |  |
| long | 1.23 | 2 | 4 | 0.62 | 0.31 |
`
	if out.String() != want {
		t.Errorf("got %s; want %s", out.String(), want)
	}
	if calls != 6+7+3 {
		t.Errorf("measured %d times; want 16", calls)
	}
}

// A table that has lost a column would print figures under the wrong head.
func TestTablesHaveARunForEachHead(t *testing.T) {
	t.Parallel()
	for _, table := range tables(&lab{}, 0) {
		for _, r := range table.rows {
			if len(r.runs) != len(table.heads) {
				t.Errorf("%s: %s has %d cells; want %d", table.name, r.name, len(r.runs), len(table.heads))
			}
			if pooled := strings.Contains(r.name, "PgBouncer"); pooled && table.name == "fleets" && r.runs[2] != nil {
				t.Errorf("%s: %s has a plain lock, which cannot work", table.name, r.name)
			}
		}
	}
}
