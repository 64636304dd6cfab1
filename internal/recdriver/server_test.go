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

const (
	lock7      = "SELECT pg_catalog.pg_advisory_xact_lock(7)"
	lockShared = "SELECT pg_catalog.pg_advisory_xact_lock_shared(7)"
)

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

// Who comes first is served first; shared waiters behind an exclusive one wait
// for it although they could go on, and then go on together.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer()
		db := pool(t, s.Driver(Plain))
		holder := begin(t, db)
		exec(t, holder, lockShared)
		x1, x1Done := background(t, t.Context(), db, lock7)
		s1, s1Done := background(t, t.Context(), db, lockShared)
		s2, s2Done := background(t, t.Context(), db, lockShared)
		x2, x2Done := background(t, t.Context(), db, lock7)
		on(t, s, 1, 4)
		exec(t, holder, lockShared) // again, not behind the queue

		for _, step := range []struct {
			end           *sql.Tx
			held, waiting int
			done          []<-chan error
		}{
			{holder, 1, 3, []<-chan error{x1Done}},
			{x1, 2, 1, []<-chan error{s1Done, s2Done}},
			{s1, 1, 1, nil},
			{s2, 1, 0, []<-chan error{x2Done}},
			{x2, 0, 0, nil},
		} {
			if err := step.end.Commit(); err != nil {
				t.Fatal(err)
			}
			for _, done := range step.done {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			on(t, s, step.held, step.waiting)
		}
		if len(s.locks) != 0 {
			t.Errorf("%d locks are remembered; want none", len(s.locks))
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
	}{
		Plain: {false, "exec! > rollback > release", "take > begin > rollback > release"},
		PGX:   {true, "exec! > rollback! > release", "take! > close > connect > begin > rollback > release"},
		LibPQ: {false, "exec! > rollback! > close", "connect > begin > rollback > release"},
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
				})
			})
		}
	}
}

// A waiter that gives up lets those behind it through.
func TestGivingUpMovesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer()
		db := pool(t, s.Driver(Plain))
		exec(t, begin(t, db), lockShared)
		ctx, cancel := context.WithCancel(t.Context())
		_, first := background(t, ctx, db, lock7)
		_, second := background(t, t.Context(), db, lockShared)
		on(t, s, 1, 2)
		cancel()
		if err := <-first; err == nil {
			t.Error("the first got the lock")
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
}

func TestStatementAfterContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for mode, want := range map[Mode]error{Plain: errCancelled, PGX: driver.ErrBadConn, LibPQ: errCancelled} {
		// Not a transaction: for that, database/sql looks at ctx itself.
		conn, err := pool(t, NewServer().Driver(mode)).Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.ExecContext(ctx, lock7); !errors.Is(err, want) {
			t.Errorf("mode %d: error %v; want %v", mode, err, want)
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
			if !waiter.Kill(1) || waiter.Kill(2) {
				t.Error("Kill took the wrong connection")
			}
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

// What a simulation sees of the server.
func TestServerTellsOfItsTransactions(t *testing.T) {
	d := New()
	db := pool(t, d)
	var told [][]string
	d.Server().OnCommit(func(statements []string) { told = append(told, statements) })
	for name, end := range map[string]func(*sql.Tx) error{
		"COMMIT":   (*sql.Tx).Commit,
		"ROLLBACK": (*sql.Tx).Rollback,
		"killed": func(tx *sql.Tx) error {
			d.KillAll()
			if tx.Commit() == nil {
				return errors.New("a COMMIT of a session that had ended succeeded")
			}
			return nil
		},
	} {
		tx := begin(t, db)
		exec(t, tx, lock7)
		exec(t, tx, "INSERT "+name)
		if !d.Holds(7) || d.Holds(8) {
			t.Errorf("%s: Holds is wrong about the lock", name)
		}
		if err := end(tx); err != nil || d.Holds(7) {
			t.Errorf("%s: got %v, the lock is left: %t", name, err, d.Holds(7))
		}
	}
	if fmt.Sprint(told) != "[[INSERT COMMIT]]" {
		t.Errorf("told of %q; want the one transaction that was committed", told)
	}
}

func TestLaterAnswersLate(t *testing.T) {
	d := New()
	db := pool(t, d)
	locked := false
	tx := begin(t, db)
	d.OnCall(func(context.Context, *Call) error { return Later(func() { locked = d.Holds(7) }) })
	exec(t, tx, lock7)
	d.OnCall(nil)
	if !locked {
		t.Error("the answer was awaited before the lock was there")
	}
	d.Forget()
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if n := len(d.Calls()); n != 0 {
		t.Errorf("%d calls are recorded after Forget", n)
	}
}
