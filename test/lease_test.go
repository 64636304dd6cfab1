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
		"killed":                  holderGets(syscall.SIGKILL),
		"killed behind PgBouncer": behindPgBouncer(holderGets(syscall.SIGKILL)),
		"frozen":                  holderGets(syscall.SIGSTOP),
		"frozen behind PgBouncer": behindPgBouncer(holderGets(syscall.SIGSTOP)),
		"cut off":                 holderCutOff(false),
		"cut off as fn returns":   holderCutOff(true),
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

func holderGets(signal syscall.Signal) func(t *testing.T, db testDB, driver string) {
	return func(t *testing.T, db testDB, driver string) {
		holder := start(t, "hold", "DSN="+db.dsn, "DRIVER="+driver)
		holder.hear(t, "held")
		granted, lasting := holdNext(t, locktest.Pool(t, otherThan(driver), db.dsn))
		await.Value(t, lasting)

		since := time.Now()
		holder.signal(t, signal)
		checkTakeover(t, since, granted)

		if signal == syscall.SIGSTOP {
			holder.signal(t, syscall.SIGCONT)
			holder.hear(t, "fn: ErrLost")   // the cause that its context ended with
			holder.hear(t, "hold: ErrLost") // although fn returned nil
			holder.finish(t)
		}
	}
}

// lib/pq ignores its context on a silent network. A holder that waits for it misses its
// deadline, and two are inside. If the network goes as fn returns, nobody knows what the
// server thinks of the lock, and COMMIT would hang for ever.
func holderCutOff(asFnReturns bool) func(t *testing.T, db testDB, driver string) {
	return func(t *testing.T, db testDB, driver string) {
		network := newNetwork(t, db.dsn)
		held, done := make(chan struct{}), make(chan struct{})
		holder := locktest.Pool(t, driver, network.dsn)
		returned := await.Go(func() error {
			return advisorylock.Locker{TTL: leaseTTL}.Hold(t.Context(), holder, leaseKey, func(ctx context.Context) error {
				close(held)
				select {
				case <-done:
				case <-ctx.Done():
					if cause := context.Cause(ctx); !errors.Is(cause, advisorylock.ErrLost) {
						t.Errorf("the context ended with cause %v; want ErrLost", cause)
					}
				}
				return nil
			})
		})
		await.Value(t, held)
		granted, lasting := holdNext(t, locktest.Pool(t, otherThan(driver), db.dsn))
		await.Value(t, lasting)

		since := time.Now()
		network.Silence(relay.Lost)
		if asFnReturns {
			close(done)
		}
		checkTakeover(t, since, granted)
		if err := await.Value(t, returned); !errors.Is(err, advisorylock.ErrLost) { // although the driver still waits for the network
			t.Errorf("got %v; want ErrLost", err)
		}
		network.Close()
	}
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

// holdNext waits for leaseKey in Hold, and gives it back at once.
// lasting is as of [locktest.Lasting].
func holdNext(t *testing.T, db *sql.DB) (granted <-chan error, lasting <-chan locktrace.Wait) {
	locker, lasting := locktest.Lasting(advisorylock.Locker{})
	return await.Go(func() error { return locktest.Waits["Hold"](t.Context(), locker, db, leaseKey) }), lasting
}

func checkTakeover(t *testing.T, since time.Time, granted <-chan error) {
	t.Helper()
	await.NoError(t, "the next holder", granted)
	t.Logf("TTL %v: the next holder had the lock after %v", leaseTTL, time.Since(since))
}

// otherThan returns the other one of two drivers.
func otherThan(driver string) string {
	if driver == drivers[0] {
		return drivers[1]
	}
	return drivers[0]
}
