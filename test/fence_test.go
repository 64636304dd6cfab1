package test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// loseFenced takes leaseKey on db, begins a fenced transaction on its pool, sleeps in a
// statement of it, and ends the session of the lock.
func loseFenced(t *testing.T, db testDB, ttl time.Duration, old *sql.DB, sleep time.Duration) (returned <-chan moment) {
	t.Helper()
	fenced := make(chan struct{})
	returned = holdInBackground(t, ttl, old, leaseKey, func(ctx context.Context) error {
		tx, err := old.BeginTx(context.WithoutCancel(ctx), nil)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = tx.Rollback() })
		if err := advisorylock.Fence(ctx, tx); err != nil {
			return err
		}
		close(fenced)
		_, err = tx.ExecContext(context.Background(), fmt.Sprintf("SELECT pg_sleep(%v)", sleep.Seconds()))
		return err
	})
	await.Value(t, fenced)
	if sleep > 0 {
		await.True(t, "the long statement", func() bool {
			return sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()") == 1
		})
	}
	locktest.Terminate(t, db.admin, leaseKey)
	return returned
}

// How long a fenced transaction keeps the next holder out when its process is
// frozen or dead. Only the order is checked; the times are for the documentation.
func TestFencedTransactionEnds(t *testing.T) {
	t.Parallel()
	const ttl, long = time.Second, 3 * time.Second
	for name, tc := range map[string]struct {
		driver string
		params []string
		freeze bool
		sleep  time.Duration // in the statement
		least  time.Duration // before this the next one must not begin
	}{
		"frozen between two statements":      {driver: "postgres", freeze: true},
		"frozen in a long statement":         {driver: "pgx", freeze: true, sleep: long, least: long * 9 / 10},
		"killed between two statements":      {driver: "pgx"},
		"killed in a long statement":         {driver: "postgres", sleep: long, least: long * 9 / 10},
		"killed in a long statement, looked": {driver: "pgx", params: []string{"client_connection_check_interval", "500ms"}, sleep: long},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t, pgtest.Shared(t))
			network := newNetwork(t, pgtest.WithParams(db.dsn, tc.params...))
			began := time.Now()
			returned := loseFenced(t, db, ttl, sqltest.Open(t, tc.driver, network.dsn), tc.sleep)
			granted, _ := holdNext(t, locktest.Pool(t, tc.driver, db.dsn), leaseKey)
			if !tc.freeze {
				network.Close() // pgx would ask for a cancel, if it could connect
			}
			next := await.Value(t, granted)
			if next.err != nil {
				t.Fatal(next.err)
			}
			took := next.at.Sub(began)
			t.Logf("TTL %v, statement of %v: the next one began after %v", ttl, long, took.Round(10*time.Millisecond))
			if took < tc.least {
				t.Errorf("the next one began after %v; want %v at least", took, tc.least)
			}
			await.Value(t, returned)
		})
	}
}

// The workload by which etcd's lock was shown to lose updates: read a set under
// the lock, wait, add an element, write it all back; with sessions that are lost
// and processes that pause, and look at nothing.
func TestUpdatesOfASet(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		for _, fenced := range []bool{true, false} {
			t.Run(fmt.Sprintf("fenced=%t", fenced), func(t *testing.T) {
				t.Parallel()
				s := newSharedSet(t, driver, fenced)
				added, lost := s.run(t)
				t.Logf("%d elements added, %d of them lost; %d locks were lost", added, lost, s.faults.Load())
				switch {
				case fenced && lost > 0:
					t.Errorf("got %d of %d elements lost; want none", lost, added)
				case !fenced && lost == 0:
					t.Errorf("control: got none of %d elements lost; want some, or the test shows nothing", added)
				case added == 0:
					t.Error("got nothing added")
				}
			})
		}
	})
}

const (
	setWorkers = 5
	setFaults  = 40 // locks that are lost, at least
	setAdded   = 5  // elements that are added, at least
)

type sharedSet struct {
	db     testDB
	pools  []*sql.DB
	fenced bool
	faults atomic.Int64
	next   atomic.Int64

	mu    sync.Mutex
	added []int64 // whose commit was confirmed
}

func newSharedSet(t *testing.T, driver string, fenced bool) *sharedSet {
	t.Helper()
	s := &sharedSet{db: newTestDB(t, pgtest.Shared(t)), fenced: fenced}
	sqltest.Exec(t, s.db.admin, "CREATE TABLE shared_set (elements text); INSERT INTO shared_set VALUES ('')")
	for range setWorkers {
		s.pools = append(s.pools, locktest.Pool(t, driver, s.db.dsn))
	}
	return s
}

// run has workers add elements until enough locks were lost, and without a fence an
// element too, and returns how many elements were added and how many of them are not
// there.
func (s *sharedSet) run(t *testing.T) (added, lost int) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), await.Limit)
	defer stop()
	var workers sync.WaitGroup
	for _, db := range s.pools {
		workers.Go(func() {
			for ctx.Err() == nil {
				_ = advisorylock.Locker{TTL: time.Second}.Hold(ctx, db, leaseKey, func(ctx context.Context) error {
					return s.add(context.WithoutCancel(ctx), db)
				})
			}
		})
	}
	enough := func() bool {
		return s.faults.Load() >= setFaults && s.count() >= setAdded && (s.fenced || s.lost(t) > 0)
	}
	for pace := 40 * time.Millisecond; !enough() && ctx.Err() == nil; {
		if s.faults.Load() >= setFaults && s.count() < setAdded { // on a busy machine nobody is done in this time
			pace += pace / 4
		}
		time.Sleep(rand.N(pace))
		s.faults.Add(int64(locktest.Terminate(t, s.db.admin, leaseKey)))
	}
	stop()
	workers.Wait()
	return len(s.added), s.lost(t)
}

// lost is how many of those that were added are not there.
func (s *sharedSet) lost(t *testing.T) (n int) {
	t.Helper()
	s.mu.Lock()
	added := slices.Clone(s.added)
	s.mu.Unlock()
	elements := strings.Fields(sqltest.Ask[string](t, s.db.admin, "SELECT elements FROM shared_set"))
	for _, e := range added {
		if !slices.Contains(elements, fmt.Sprint(e)) {
			n++
		}
	}
	return n
}

func (s *sharedSet) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.added)
}

// add reads the set, pauses, and writes it back with one element more. A commit
// whose answer does not come counts as none.
func (s *sharedSet) add(ctx context.Context, db *sql.DB) error {
	var elements string
	if err := db.QueryRowContext(ctx, "SELECT elements FROM shared_set").Scan(&elements); err != nil {
		return err
	}
	time.Sleep(rand.N(15 * time.Millisecond))
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it may have been committed
	if s.fenced {
		if err := advisorylock.Fence(ctx, tx); err != nil {
			return err
		}
	}
	element := s.next.Add(1)
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("UPDATE shared_set SET elements = '%s %d'", elements, element)); err != nil {
		return err
	}
	time.Sleep(rand.N(5 * time.Millisecond))
	if err := tx.Commit(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added = append(s.added, element)
	return nil
}
