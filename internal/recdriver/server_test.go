//go:build go1.25

package recdriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

const lock7 = "SELECT pg_catalog.pg_advisory_xact_lock(7)"

func begin(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

func exec(t *testing.T, tx *sql.Tx, query string) {
	t.Helper()
	if _, err := tx.Exec(query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// background executes query in a transaction of its own and leaves that open. It
// returns when the statement has ended, or waits for a lock.
func background(t *testing.T, ctx context.Context, db *sql.DB, query string) (*sql.Tx, <-chan error) {
	t.Helper()
	tx := begin(t, db)
	done := make(chan error, 1)
	go func() {
		_, err := tx.ExecContext(ctx, query)
		done <- err
	}()
	synctest.Wait()
	return tx, done
}

// on checks how many hold lock 7 and how many wait for it.
func on(t *testing.T, s *Server, held, waiting int) {
	t.Helper()
	synctest.Wait()
	if h, w := s.Held()[7], s.Waiting()[7]; h != held || w != waiting {
		t.Errorf("%d hold the lock and %d wait; want %d and %d", h, w, held, waiting)
	}
}

// Waiters are served in the order in which they came, and one that gives up lets the
// others through. A try fails while others wait, if its session does not have the lock.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer()
		db := pool(t, s.Driver(Plain))
		share := func(tx *sql.Tx, want int64) {
			t.Helper()
			res, err := tx.Exec("SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock_shared(7) THEN 1 END)")
			if err != nil {
				t.Fatal(err)
			}
			if n, _ := res.RowsAffected(); n != want {
				t.Errorf("got %d rows; want %d", n, want)
			}
		}
		holder, late := begin(t, db), begin(t, db)
		share(holder, 1)
		first, firstDone := background(t, t.Context(), db, lock7)
		ctx, cancel := context.WithCancel(t.Context())
		_, secondDone := background(t, ctx, db, lock7)
		third, thirdDone := background(t, t.Context(), db, lock7)
		on(t, s, 1, 3)
		share(late, 0)
		share(holder, 1)
		cancel()
		if err := <-secondDone; err == nil {
			t.Error("the second got the lock")
		}
		on(t, s, 1, 2)
		for _, step := range []struct {
			end     *sql.Tx
			waiting int
			done    <-chan error
		}{{holder, 1, firstDone}, {first, 0, thirdDone}} {
			if err := errors.Join(step.end.Commit(), <-step.done); err != nil {
				t.Fatal(err)
			}
			on(t, s, 1, step.waiting)
		}
		if err := third.Commit(); err != nil || len(s.locks) != 0 {
			t.Errorf("got %v, and %d locks are remembered; want none", err, len(s.locks))
		}
	})
}

// The ctx of a wait ends: each driver says something else, and
// none leaves a waiter or a lock on the server.
func TestWaitEndsWithContext(t *testing.T) {
	for mode, want := range map[Mode]struct {
		isCtx  bool
		order  string
		reused string
		after  error // of a statement whose ctx has ended before
	}{
		Plain: {false, "exec! > rollback > release", "take > begin > rollback > release", errCancelled},
		PGX:   {true, "exec! > rollback! > release", "take! > close > connect > begin > rollback > release", driver.ErrBadConn},
		LibPQ: {false, "exec! > rollback! > close", "connect > begin > rollback > release", errCancelled},
	} {
		for _, deadline := range []bool{true, false} {
			t.Run(fmt.Sprint(mode, deadline), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := NewServer()
					exec(t, begin(t, pool(t, s.Driver(Plain))), lock7)
					d := s.Driver(mode)
					db := pool(t, d)
					tx := begin(t, db)
					exec(t, tx, "SELECT pg_advisory_xact_lock(8)")
					d.Reset()
					ctx, cancel := context.WithCancel(t.Context())
					if deadline {
						ctx, cancel = context.WithTimeout(t.Context(), time.Second)
					}
					time.AfterFunc(2*time.Second, cancel)
					_, err := tx.ExecContext(ctx, lock7)
					if got := errors.Is(err, ctx.Err()); got != want.isCtx || !got && !errors.Is(err, errCancelled) {
						t.Errorf("got %v; want the ctx's error: %t", err, want.isCtx)
					}
					_ = tx.Rollback()
					if held, waiting := s.Held(), s.Waiting(); !maps.Equal(held, map[int64]int{7: 1}) || len(waiting) != 0 {
						t.Errorf("held %v, waited for %v; want one holder of 7", held, waiting)
					}
					if got := d.String(); got != want.order {
						t.Errorf("got  %s\nwant %s", got, want.order)
					}
					d.Reset()
					_ = begin(t, db).Rollback()
					if got := d.String(); got != want.reused {
						t.Errorf("next:\ngot  %s\nwant %s", got, want.reused)
					}
					conn, err := db.Conn(t.Context()) // for a transaction, database/sql looks at ctx itself
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					if _, err := conn.ExecContext(ctx, lock7); !errors.Is(err, want.after) {
						t.Errorf("after the end: got %v; want %v", err, want.after)
					}
				})
			})
		}
	}
}

// pg_terminate_backend on the holder, and on a waiter.
func TestKill(t *testing.T) {
	for mode, want := range map[Mode]struct {
		err   error
		order string
	}{
		Plain: {errTerminated, "connect > begin > exec > commit! > release! > close"},
		PGX:   {errTerminated, "connect > begin > exec > commit! > release"},
		LibPQ: {driver.ErrBadConn, "connect > begin > exec > commit! > close"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := NewServer()
			d := s.Driver(mode)
			db := pool(t, d)
			tx := begin(t, db)
			exec(t, tx, lock7)
			waiter := s.Driver(mode)
			_, waited := background(t, t.Context(), pool(t, waiter), lock7)
			_, next := background(t, t.Context(), pool(t, s.Driver(Plain)), lock7)
			waiter.Kill(1)
			if err := <-waited; !errors.Is(err, want.err) {
				t.Errorf("mode %d: the waiter got %v; want %v", mode, err, want.err)
			}
			on(t, s, 1, 1)
			if n := s.Kill(7) + s.Kill(8); n != 1 {
				t.Errorf("killed %d; want 1", n)
			}
			if err := <-next; err != nil {
				t.Error(err)
			}
			if err := tx.Commit(); !errors.Is(err, want.err) {
				t.Errorf("mode %d: error %v; want %v", mode, err, want.err)
			}
			if got := d.String(); got != want.order {
				t.Errorf("mode %d:\ngot  %s\nwant %s", mode, got, want.order)
			}
			if err := transaction(db); err != nil {
				t.Errorf("mode %d: next transaction: %v", mode, err)
			}
		})
	}
}

// The server ends a holder that has gone silent.
func TestIdleInTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 200 * time.Millisecond
		s := NewServer()
		db := pool(t, s.Driver(Plain))
		tx := begin(t, db)
		exec(t, tx, "SET LOCAL idle_in_transaction_session_timeout = '200ms'; "+lock7)
		_, next := background(t, t.Context(), db, lock7)
		for range 3 {
			time.Sleep(ttl - 1)
			exec(t, tx, "SELECT 1")
		}
		on(t, s, 1, 1)
		time.Sleep(ttl)
		if err := <-next; err != nil {
			t.Error(err)
		}
		if _, err := tx.Exec("SELECT 1"); !errors.Is(err, errIdle) {
			t.Errorf("error %v; want 25P03", err)
		}

		// A transaction that ends takes the setting with it.
		tx = begin(t, db)
		exec(t, tx, "SET LOCAL idle_in_transaction_session_timeout = '1ms'")
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		tx = begin(t, db)
		time.Sleep(time.Second)
		exec(t, tx, "SELECT 1")
	})
}

// What the simulation does with a process and its server.
func TestKillAll(t *testing.T) {
	d := New()
	tx := begin(t, pool(t, d))
	exec(t, tx, lock7)
	if !d.Holds(7) || d.Holds(8) {
		t.Errorf("holds 7: %t, 8: %t; want 7 alone", d.Holds(7), d.Holds(8))
	}
	d.Forget()
	d.KillAll()
	if err := tx.Commit(); !errors.Is(err, errTerminated) || d.Holds(7) || len(d.Calls()) != 0 {
		t.Errorf("got %v, holds 7: %t, %d calls; want the lock gone with the session, and no record", err, d.Holds(7), len(d.Calls()))
	}
}
