//go:build unix

package test

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/sqltest"
)

const (
	leaseKey = advisorylock.Key(4711)
	leaseTTL = 2 * time.Second

	// takeover is how long after the holder's end the next one may have the
	// lock: TTL plus a tenth, and a second for a machine that is busy.
	takeover = leaseTTL + leaseTTL/10 + time.Second

	// longWait bounds what a test waits for. Nothing is measured by it.
	longWait = 60 * time.Second
)

// With session locks, or with a transaction that has no idle limit, everybody
// waits for a holder that froze or whose network went silent until TCP notices,
// which takes up to two hours. Here the server ends the lease, and the next one
// has the lock after TTL.
func TestHoldTakeover(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, db testDB, driver string){
		"killed":                holderKilled,
		"frozen":                holderFrozen,
		"terminated":            holderTerminated,
		"cut off":               holderCutOff,
		"cut off as fn returns": holderCutOffAtTheEnd,
	} {
		t.Run(name, func(t *testing.T) {
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				db := newTestDB(t, pgtest.Shared(t))
				test(t, db, driver)
				db.holdsNoLock(t)
			})
		})
	}
}

func holderKilled(t *testing.T, db testDB, driver string) {
	holder := startHolder(t, db.dsn, driver)
	granted := holdNext(t, pool(t, otherThan(driver), db.dsn), leaseKey)
	db.awaitWaiters(t, 1)

	since := time.Now()
	holder.signal(t, syscall.SIGKILL)
	checkTakeover(t, since, await.Value(t, granted))
}

func holderFrozen(t *testing.T, db testDB, driver string) {
	holder := startHolder(t, db.dsn, driver)
	granted := holdNext(t, pool(t, otherThan(driver), db.dsn), leaseKey)
	db.awaitWaiters(t, 1)

	since := time.Now()
	holder.signal(t, syscall.SIGSTOP)
	checkTakeover(t, since, await.Value(t, granted))

	holder.signal(t, syscall.SIGCONT)
	holder.hear(t, "fn: ErrLost")   // the cause that its context ended with
	holder.hear(t, "hold: ErrLost") // although fn returned nil
	holder.finish(t)
}

// No lease can run ahead of pg_terminate_backend: fn learns of it by the next
// heartbeat, here 3 s apart. The local deadline, which would come after 8.1 s,
// asks nobody; so the driver's error in the chain tells that it was a heartbeat.
func holderTerminated(t *testing.T, db testDB, driver string) {
	held := make(chan struct{})
	returned := holdInBackground(t, 9*time.Second, pool(t, driver, db.dsn), leaseKey, func(ctx context.Context) error {
		close(held)
		<-ctx.Done()
		return context.Cause(ctx)
	})
	await.Value(t, held)
	db.terminate(t, leaseKey)

	err := await.Value(t, returned).err
	if !errors.Is(err, advisorylock.ErrLost) {
		t.Errorf("got %v; want ErrLost", err)
	}
	var pgErr *pgconn.PgError
	told := errors.As(err, &pgErr) && pgErr.Code == "57P01"
	if driver == "postgres" {
		told = errors.Is(err, sqldriver.ErrBadConn)
	}
	if !told {
		t.Errorf("got %v; want what the heartbeat had from the driver", err)
	}
}

// lib/pq ignores its context on a silent network. A holder that waits for it
// misses its deadline, and two are inside. Hence both drivers, twenty holders
// each, and one clock.
func holderCutOff(t *testing.T, db testDB, driver string) {
	const rounds = 20
	type round struct {
		network  *network
		cut      time.Time
		ended    time.Time // the context of fn, before returned comes
		returned <-chan moment
		next     <-chan moment
	}
	all := make([]*round, rounds)
	for i := range all {
		key := leaseKey + advisorylock.Key(i)
		r := &round{network: newNetwork(t, db.dsn)}
		held := make(chan struct{})
		r.returned = holdInBackground(t, leaseTTL, pool(t, driver, r.network.dsn), key, func(ctx context.Context) error {
			close(held)
			<-ctx.Done()
			r.ended = time.Now()
			if cause := context.Cause(ctx); !errors.Is(cause, advisorylock.ErrLost) {
				t.Errorf("round %d: the context ended with cause %v; want ErrLost", i, cause)
			}
			return nil
		})
		await.Value(t, held)
		r.next = holdNext(t, pool(t, drivers[i%len(drivers)], db.dsn), key)
		all[i] = r
	}
	db.awaitWaiters(t, rounds)
	for _, r := range all {
		r.cut = time.Now()
		r.network.Silence(relay.Lost)
	}

	inOrder, least, last := 0, time.Hour, time.Duration(0)
	for i, r := range all {
		next, returned := await.Value(t, r.next), await.Value(t, r.returned)
		checkTakeover(t, r.cut, next)
		if !errors.Is(returned.err, advisorylock.ErrLost) {
			t.Errorf("round %d: got %v; want ErrLost", i, returned.err)
		}
		// The driver is still waiting for the network. Hold waits half a second
		// for the driver; the rest is room.
		if took := returned.at.Sub(r.ended); took > 3*time.Second {
			t.Errorf("round %d: Hold returned %v after fn; want half a second at most", i, took)
		}
		ahead := next.at.Sub(r.ended)
		if ahead > 0 {
			inOrder++
		}
		least, last = min(least, ahead), max(last, next.at.Sub(r.cut))
		r.network.Close()
	}
	t.Logf("fn's context ended before the next holder had the lock in %d of %d, by %v at least; the last had it %v after the cut",
		inOrder, rounds, least, last)
	if inOrder != rounds {
		t.Errorf("got fn's context ended first in %d of %d; want all", inOrder, rounds)
	}
}

// The work is done and the network goes before the lock is given back: nobody
// knows what the server thinks of it, and COMMIT would hang for ever.
func holderCutOffAtTheEnd(t *testing.T, db testDB, driver string) {
	network := newNetwork(t, db.dsn)
	held, done := make(chan struct{}), make(chan struct{})
	var fnDone time.Time
	returned := holdInBackground(t, leaseTTL, pool(t, driver, network.dsn), leaseKey, func(context.Context) error {
		close(held)
		<-done
		fnDone = time.Now()
		return nil
	})
	await.Value(t, held)
	granted := holdNext(t, pool(t, otherThan(driver), db.dsn), leaseKey)
	db.awaitWaiters(t, 1)

	since := time.Now()
	network.Silence(relay.Lost)
	close(done)
	checkTakeover(t, since, await.Value(t, granted))
	end := await.Value(t, returned)
	if !errors.Is(end.err, advisorylock.ErrLost) {
		t.Errorf("got %v; want ErrLost", end.err)
	}
	if took := end.at.Sub(fnDone); took > 20*time.Second {
		t.Errorf("got Hold back %v after fn; want about 5.5 s at most", took)
	}
	network.Close()
}

// A session that waits in pg_advisory_xact_lock keeps a snapshot. CREATE INDEX
// CONCURRENTLY under such a lock waits for the waiters, who wait for it, and the
// server sees no deadlock; one indexer went 22 hours without vacuum.
func TestWaitersDisturbNobody(t *testing.T) {
	server, err := pgtest.Start(t.Context(), pgtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("while they wait", func(t *testing.T) {
		t.Run("vacuum", func(t *testing.T) { t.Parallel(); vacuumBesideWaiters(t, server) })
		t.Run("index", func(t *testing.T) { t.Parallel(); indexBesideWaiters(t, server) })
		t.Run("load", func(t *testing.T) { t.Parallel(); loadOfWaiters(t, server) })
	})
	t.Run("server log", func(t *testing.T) { checkServerLog(t, server) })
}

func vacuumBesideWaiters(t *testing.T, server *pgtest.Server) {
	db := newTestDB(t, server)
	sqltest.Exec(t, db.admin, "CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g")
	holder := sqltest.Occupy(t, db.dsn, leaseKey)
	waiters := startWaiters(t, db)
	sqltest.Exec(t, db.admin, "DELETE FROM t")
	began := time.Now()
	// Vacuum gives the pages back only when nobody can see the rows any more.
	await.True(t, "vacuum to give the pages back", func() bool {
		sqltest.Exec(t, db.admin, "VACUUM t")
		return sqltest.Ask[int](t, db.admin, "SELECT pg_relation_size('t')") == 0
	})
	t.Logf("vacuum had the dead rows %v after the DELETE beside %d waiters", time.Since(began), waiters.count)
	sqltest.Commit(t, holder)
	waiters.finish(t)
	db.holdsNoLock(t)
}

// The waiters are many, and have waited for long enough that most of them ask now and
// then.
func indexBesideWaiters(t *testing.T, server *pgtest.Server) {
	db := newTestDB(t, server)
	sqltest.Exec(t, db.admin, "CREATE TABLE t (id int)")
	holder := pool(t, drivers[0], db.dsn)
	var waiters waiters
	err := advisorylock.Hold(t.Context(), holder, leaseKey, func(ctx context.Context) error {
		waiters = startWaiters(t, db)
		began := time.Now()
		for range 3 { // at different moments of their bursts
			if _, err := holder.ExecContext(ctx, "CREATE INDEX CONCURRENTLY ON t (id)"); err != nil {
				return err
			}
		}
		t.Logf("three indexes took %v beside %d waiters", time.Since(began), waiters.count)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	waiters.finish(t)
	db.holdsNoLock(t)
}

// The load is counted at the driver, call by call.
func loadOfWaiters(t *testing.T, server *pgtest.Server) {
	db := newTestDB(t, server)
	holder := sqltest.Occupy(t, db.dsn, leaseKey)
	locker, lasting := lastingWait(advisorylock.Locker{})
	var recorders []*recdriver.Driver
	var waiting []<-chan error
	for _, d := range []sqldriver.Driver{&pq.Driver{}, stdlib.GetDefaultDriver()} {
		rec := recdriver.WrapDriver(d, db.dsn)
		waiter := rec.OpenDB()
		t.Cleanup(func() { waiter.Close() })
		recorders = append(recorders, rec)
		waiting = append(waiting, await.Go(func() error {
			return locker.Hold(t.Context(), waiter, leaseKey, func(context.Context) error { return nil })
		}))
	}
	for range recorders {
		await.Value(t, lasting)
	}
	began := time.Now()
	for _, rec := range recorders {
		rec.Reset()
	}
	time.Sleep(5 * time.Second) // a rate needs time
	elapsed := time.Since(began)
	for i, rec := range recorders {
		calls := 0
		for _, c := range rec.Calls() {
			if c.Kind != recdriver.Take && c.Kind != recdriver.Release && c.Start.Sub(began) < elapsed {
				calls++
			}
		}
		t.Logf("waiter %d: %.1f round trips a second", i, float64(calls)/elapsed.Seconds())
		// BEGIN, the lock, ROLLBACK, once a second; a slow machine makes it less.
		if most := 3 * (int(elapsed/time.Second) + 2); calls > most || calls == 0 {
			t.Errorf("waiter %d: got %d round trips in %v; want 1 to %d", i, calls, elapsed, most)
		}
	}
	sqltest.Commit(t, holder)
	for _, w := range waiting {
		if err := await.Value(t, w); err != nil {
			t.Error(err)
		}
	}
	db.holdsNoLock(t)
}

// A bare lock_timeout writes an ERROR to the server's log at each expiry, one a
// second for every process that waits.
func checkServerLog(t *testing.T, server *pgtest.Server) {
	control := sqltest.Open(t, drivers[0], server.DSN)
	if _, err := control.ExecContext(t.Context(), "SELECT 1/0"); err == nil {
		t.Fatal("got no error; want division by zero")
	}
	var log string
	await.Until(t, "the control error in the server's log", func() (err error) {
		if log, err = server.Log(t.Context()); err != nil {
			t.Skipf("not checked: %v", err)
		}
		if !strings.Contains(log, "division by zero") {
			return errors.New("not there")
		}
		return nil
	})
	for _, line := range strings.Split(log, "\n") {
		for _, level := range []string{"ERROR:", "FATAL:", "PANIC:"} {
			if strings.Contains(line, level) && !expectedInLog(line) {
				t.Errorf("the server logged %q", line)
			}
		}
	}
}

// expectedInLog: the control error, and what comes of starting a server and of
// dropping a database.
func expectedInLog(line string) bool {
	for _, part := range []string{
		"division by zero", "the database system is", "terminating connection due to administrator command",
	} {
		if strings.Contains(line, part) {
			return true
		}
	}
	return false
}

// Limits in the role or the DSN are meant for the user's statements. They ended
// the wait for a lock (pgmigrate#25), and transaction_timeout, new in 17, would
// end the lease whatever the heartbeats do.
func TestServerSideLimits(t *testing.T) {
	t.Parallel()
	limits := map[string]string{
		"lock_timeout":                        "200ms",
		"statement_timeout":                   "250ms",
		"idle_in_transaction_session_timeout": "1s",
	}
	server := pgtest.Shared(t)
	admin := sqltest.Open(t, drivers[0], server.DSN)
	if sqltest.Ask[bool](t, admin, "SELECT current_setting('transaction_timeout', true) IS NOT NULL") {
		limits["transaction_timeout"] = "1200ms"
	} else {
		t.Logf("PostgreSQL %s has no transaction_timeout", server.Version)
	}
	for from, limit := range map[string]func(t *testing.T, db testDB) (dsn string){
		"dsn": func(_ *testing.T, db testDB) string {
			dsn := db.dsn
			for name, value := range limits {
				dsn = pgtest.WithParams(dsn, name, value)
			}
			return dsn
		},
		"role": func(t *testing.T, db testDB) string {
			role := pgtest.Shared(t).NewRole(t)
			for name, value := range limits {
				sqltest.Exec(t, db.admin, fmt.Sprintf("ALTER ROLE %s SET %s = '%s'", quoted(role), name, value))
			}
			return pgtest.WithUser(db.dsn, role, pgtest.RolePassword)
		},
	} {
		t.Run(from, func(t *testing.T) {
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				db := newTestDB(t, server)
				limited := pool(t, driver, limit(t, db))
				limited.SetMaxOpenConns(2)
				limited.SetMaxIdleConns(2)
				holdBeyondLimits(t, db, limited)
				waitBeyondLimits(t, db, limited, limits)
				checkSettings(t, limited, limits)
				db.holdsNoLock(t)
			})
		})
	}
}

// The wait lasts longer than lock_timeout and statement_timeout, the lease longer
// than the other two; the heartbeat comes every 2 s.
func holdBeyondLimits(t *testing.T, db testDB, limited *sql.DB) {
	t.Helper()
	before := sqltest.Occupy(t, db.dsn, leaseKey)
	returned := holdInBackground(t, 6*time.Second, limited, leaseKey, func(ctx context.Context) error {
		select {
		case <-time.After(1800 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	db.awaitWaiters(t, 1)
	time.Sleep(600 * time.Millisecond)
	sqltest.Commit(t, before)
	if err := await.Value(t, returned).err; err != nil {
		t.Errorf("Hold: got %v; want nil", err)
	}
}

func waitBeyondLimits(t *testing.T, db testDB, limited *sql.DB, limits map[string]string) {
	t.Helper()
	before := sqltest.Occupy(t, db.dsn, leaseKey)
	returned := background(func() error {
		return advisorylock.WithXactLock(t.Context(), limited, leaseKey, func(ctx context.Context, tx *sql.Tx) error {
			for name, want := range limits {
				if got := show(ctx, tx, name); got != want {
					t.Errorf("%s in the callback: got %s; want %s", name, got, want)
				}
			}
			return nil
		})
	})
	db.awaitWaiters(t, 1)
	time.Sleep(600 * time.Millisecond)
	sqltest.Commit(t, before)
	if err := await.Value(t, returned).err; err != nil {
		t.Errorf("WithXactLock: got %v; want nil", err)
	}
}

// checkSettings looks at every connection that the pool has.
func checkSettings(t *testing.T, limited *sql.DB, limits map[string]string) {
	t.Helper()
	for range limited.Stats().OpenConnections {
		conn, err := limited.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for name, want := range limits {
			if got := show(t.Context(), conn, name); got != want {
				t.Errorf("%s afterwards: got %s; want %s", name, got, want)
			}
		}
	}
}

func show(ctx context.Context, db sqltest.Querier, name string) string {
	var value string
	if err := db.QueryRowContext(ctx, "SHOW "+name).Scan(&value); err != nil {
		return err.Error()
	}
	return value
}

// Fifty tenants bootstrap at once on one pool of ten. Were all ten connections
// to hold locks, no migrate could go on (checkstack#233 removed its helper for
// that).
func TestTenantsShareAPool(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		db := newTestDB(t, pgtest.Shared(t))
		ten := pool(t, driver, db.dsn)
		ten.SetMaxOpenConns(10)
		ctx, cancel := context.WithTimeout(t.Context(), longWait)
		defer cancel()
		const tenants = 50
		crowded := crowdOf(9) // all that locks may have
		var wg sync.WaitGroup
		for i := range tenants {
			schema := fmt.Sprintf("tenant_%d", i)
			wg.Go(func() {
				guard := schemaguard.Guard{Serialize: true}
				err := guard.Ensure(ctx, ten, schema, func(ctx context.Context, db *sql.DB) error {
					crowded()
					_, err := db.ExecContext(ctx, "CREATE TABLE "+schema+".t ()")
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM pg_tables WHERE schemaname LIKE 'tenant_%'"); got != tenants {
			t.Errorf("got %d tables; want %d", got, tenants)
		}
		db.holdsNoLock(t)
	})
}

// crowdOf returns a function that blocks until n have called it, and a moment
// longer, in which one more could come that must not.
func crowdOf(n int32) func() {
	var inside atomic.Int32
	full := make(chan struct{})
	return func() {
		if inside.Add(1) == n {
			time.AfterFunc(200*time.Millisecond, func() { close(full) })
		}
		<-full
	}
}

// What the child processes do.

func init() {
	children["hold"] = holdUntilTold
	children["wait"] = waitInHold
}

// holdUntilTold holds leaseKey until its input ends or the lease is lost, and
// says what it sees.
func holdUntilTold() error {
	db, err := sql.Open(os.Getenv("DRIVER"), os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer db.Close()
	told := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(told)
	}()
	locker := advisorylock.Locker{TTL: leaseTTL}
	err = locker.Hold(context.Background(), db, leaseKey, func(ctx context.Context) error {
		fmt.Println("held")
		select {
		case <-told:
		case <-ctx.Done():
			fmt.Println("fn:", lostOr(context.Cause(ctx)))
		}
		return nil
	})
	fmt.Println("hold:", lostOr(err))
	return nil
}

func lostOr(err error) string {
	if errors.Is(err, advisorylock.ErrLost) {
		return "ErrLost"
	}
	return fmt.Sprint(err)
}

// waitInHold waits on POOLS pools at once, of both drivers, and says of each when its
// wait begins to last.
func waitInHold() error {
	pools, err := strconv.Atoi(os.Getenv("POOLS"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), longWait)
	defer cancel()
	results := make(chan error, pools)
	locker := advisorylock.Locker{Trace: &locktrace.Trace{
		Waiting: func(context.Context, locktrace.Wait) { fmt.Println("waits") },
	}}
	for i := range pools {
		db, err := sql.Open(drivers[i%len(drivers)], os.Getenv("DSN"))
		if err != nil {
			return err
		}
		defer db.Close()
		go func() {
			results <- locker.Hold(ctx, db, leaseKey, func(context.Context) error { return nil })
		}()
	}
	for range pools {
		err = errors.Join(err, <-results)
	}
	return err
}

type waiters struct {
	count int
	procs []*program
	here  []<-chan error
}

// startWaiters returns when twenty have waited in Hold for a while: ten pools in two
// processes, and ten in this one, half of them on each driver.
func startWaiters(t *testing.T, db testDB) waiters {
	t.Helper()
	const processes, each = 2, 5
	w := waiters{count: (processes + 2) * each}
	for range processes {
		w.procs = append(w.procs, start(t, "wait", "DSN="+db.dsn, fmt.Sprintf("POOLS=%d", each)))
	}
	locker, lasting := lastingWait(advisorylock.Locker{})
	for i := range 2 * each {
		waiter := pool(t, drivers[i%2], db.dsn)
		w.here = append(w.here, await.Go(func() error {
			return locker.Hold(t.Context(), waiter, leaseKey, func(context.Context) error { return nil })
		}))
	}
	for range w.here {
		await.Value(t, lasting)
	}
	for _, p := range w.procs {
		for range each {
			p.hear(t, "waits")
		}
	}
	return w
}

// finish waits until each has had the lock.
func (w waiters) finish(t *testing.T) {
	t.Helper()
	for _, returned := range w.here {
		if err := await.Value(t, returned); err != nil {
			t.Error(err)
		}
	}
	for _, p := range w.procs {
		p.finish(t)
	}
}

// startHolder returns when a process of its own holds leaseKey.
func startHolder(t *testing.T, dsn, driver string) *program {
	t.Helper()
	p := start(t, "hold", "DSN="+dsn, "DRIVER="+driver)
	p.hear(t, "held")
	return p
}

// moment is when something happened, and the error that it happened with.
type moment struct {
	at  time.Time
	err error
}

// background runs fn and tells when it returned.
func background(fn func() error) <-chan moment {
	done := make(chan moment, 1)
	go func() {
		err := fn()
		done <- moment{time.Now(), err}
	}()
	return done
}

func holdInBackground(t *testing.T, ttl time.Duration, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) <-chan moment {
	ctx := t.Context()
	return background(func() error { return advisorylock.Locker{TTL: ttl}.Hold(ctx, db, key, fn) })
}

// holdNext waits for key in Hold, gives it back at once, and tells when it had it.
func holdNext(t *testing.T, db *sql.DB, key advisorylock.Key) <-chan moment {
	ctx, cancel := context.WithTimeout(t.Context(), longWait)
	granted := make(chan moment, 1)
	go func() {
		defer cancel()
		var at time.Time
		err := advisorylock.Hold(ctx, db, key, func(context.Context) error {
			at = time.Now()
			return nil
		})
		granted <- moment{at, err}
	}()
	return granted
}

func checkTakeover(t *testing.T, since time.Time, next moment) {
	t.Helper()
	if next.err != nil {
		t.Errorf("the next holder got %v", next.err)
		return
	}
	if took := next.at.Sub(since); took > takeover {
		t.Errorf("the next holder had the lock after %v; want TTL (%v) plus a tenth, and at most %v on a busy machine", took, leaseTTL, takeover)
	}
}

func otherThan(driver string) string {
	for _, d := range drivers {
		if d != driver {
			return d
		}
	}
	return driver
}
