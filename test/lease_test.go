//go:build unix

package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/history"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
)

const (
	leaseKey = advisorylock.Key(4711)
	leaseTTL = 2 * time.Second
)

// With session locks, or with a transaction that has no idle limit, everybody
// waits for a holder that froze or whose network went silent until TCP notices,
// which takes up to two hours. Here the server ends the lease, and the next one
// has the lock after TTL.
func TestHoldTakeover(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T, db testDB, driver string){
		"killed":                  holderKilled,
		"killed behind PgBouncer": behindPgBouncer(holderKilled),
		"frozen":                  holderFrozen,
		"frozen behind PgBouncer": behindPgBouncer(holderFrozen),
		"cut off":                 holderCutOff,
		"cut off as fn returns":   holderCutOffAtTheEnd,
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

func behindPgBouncer(test func(t *testing.T, db testDB, driver string)) func(t *testing.T, db testDB, driver string) {
	return func(t *testing.T, db testDB, driver string) {
		db.dsn = pgbouncer.New(t, pgtest.Shared(t), "transaction", 4).DSN(db.dsn)
		test(t, db, driver)
	}
}

func holderKilled(t *testing.T, db testDB, driver string) {
	holder := startHolder(t, db.dsn, driver)
	granted, lasting := holdNext(t, locktest.Pool(t, otherThan(driver), db.dsn), leaseKey)
	await.Value(t, lasting)

	since := time.Now()
	holder.signal(t, syscall.SIGKILL)
	checkTakeover(t, since, await.Value(t, granted))
}

func holderFrozen(t *testing.T, db testDB, driver string) {
	holder := startHolder(t, db.dsn, driver)
	granted, lasting := holdNext(t, locktest.Pool(t, otherThan(driver), db.dsn), leaseKey)
	await.Value(t, lasting)

	since := time.Now()
	holder.signal(t, syscall.SIGSTOP)
	checkTakeover(t, since, await.Value(t, granted))

	holder.signal(t, syscall.SIGCONT)
	holder.hear(t, "fn: ErrLost")   // the cause that its context ended with
	holder.hear(t, "hold: ErrLost") // although fn returned nil
	holder.finish(t)
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
		lasting  <-chan locktrace.Wait
	}
	all := make([]*round, rounds)
	log := history.New(0)
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	go log.Watch(watching)
	for i := range all {
		key := leaseKey + advisorylock.Key(i)
		r := &round{network: newNetwork(t, db.dsn)}
		held := make(chan struct{})
		r.returned = holdInBackground(t, leaseTTL, locktest.Pool(t, driver, r.network.dsn), key, func(ctx context.Context) error {
			close(held)
			<-ctx.Done()
			r.ended = time.Now()
			if cause := context.Cause(ctx); !errors.Is(cause, advisorylock.ErrLost) {
				t.Errorf("round %d: the context ended with cause %v; want ErrLost", i, cause)
			}
			return nil
		})
		await.Value(t, held)
		r.next, r.lasting = holdNext(t, locktest.Pool(t, drivers[i%len(drivers)], db.dsn), key)
		all[i] = r
	}
	for _, r := range all {
		await.Value(t, r.lasting)
	}
	for _, r := range all {
		r.cut = time.Now()
		r.network.Silence(relay.Lost)
	}

	inOrder, least, last := 0, time.Hour, time.Duration(0)
	for i, r := range all {
		next, returned := await.Value(t, r.next), await.Value(t, r.returned)
		checkTakeover(t, r.cut, next)
		if !errors.Is(returned.err, advisorylock.ErrLost) { // although the driver still waits for the network
			t.Errorf("round %d: got %v; want ErrLost", i, returned.err)
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
	if late := log.Late(); least+late <= 0 { // a goroutine that the machine lets wait hears of the end late
		t.Errorf("got fn's context ended first in %d of %d, and goroutines %v late at most; want all", inOrder, rounds, late)
	}
}

// The work is done and the network goes before the lock is given back: nobody
// knows what the server thinks of it, and COMMIT would hang for ever.
func holderCutOffAtTheEnd(t *testing.T, db testDB, driver string) {
	network := newNetwork(t, db.dsn)
	held, done := make(chan struct{}), make(chan struct{})
	returned := holdInBackground(t, leaseTTL, locktest.Pool(t, driver, network.dsn), leaseKey, func(context.Context) error {
		close(held)
		<-done
		return nil
	})
	await.Value(t, held)
	granted, lasting := holdNext(t, locktest.Pool(t, otherThan(driver), db.dsn), leaseKey)
	await.Value(t, lasting)

	since := time.Now()
	network.Silence(relay.Lost)
	close(done)
	checkTakeover(t, since, await.Value(t, granted))
	if end := await.Value(t, returned); !errors.Is(end.err, advisorylock.ErrLost) {
		t.Errorf("got %v; want ErrLost", end.err)
	}
	network.Close()
}

// What the child processes do.

func init() { children["hold"] = holdUntilTold }

// holdUntilTold holds leaseKey until its input ends or the lease is lost, and
// says what it sees.
func holdUntilTold(db *sql.DB) error {
	told := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(told)
	}()
	locker := advisorylock.Locker{TTL: leaseTTL}
	err := locker.Hold(context.Background(), db, leaseKey, func(ctx context.Context) error {
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

// holdInBackground holds key while fn runs, and tells when it returned.
func holdInBackground(t *testing.T, ttl time.Duration, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) <-chan moment {
	done := make(chan moment, 1)
	go func() {
		err := advisorylock.Locker{TTL: ttl}.Hold(t.Context(), db, key, fn)
		done <- moment{time.Now(), err}
	}()
	return done
}

// holdNext waits for key in Hold, gives it back at once, and tells when it had it.
// lasting is as of [lastingWait].
func holdNext(t *testing.T, db *sql.DB, key advisorylock.Key) (granted <-chan moment, lasting <-chan locktrace.Wait) {
	locker, lasting := locktest.Lasting(advisorylock.Locker{})
	returned := make(chan moment, 1)
	go func() {
		var at time.Time
		err := locker.Hold(t.Context(), db, key, func(context.Context) error {
			at = time.Now()
			return nil
		})
		returned <- moment{at, err}
	}()
	return returned, lasting
}

func checkTakeover(t *testing.T, since time.Time, next moment) {
	t.Helper()
	if next.err != nil {
		t.Errorf("the next holder got %v", next.err)
		return
	}
	t.Logf("TTL %v: the next holder had the lock after %v", leaseTTL, next.at.Sub(since))
}

func otherThan(driver string) string {
	for _, d := range drivers {
		if d != driver {
			return d
		}
	}
	return driver
}
