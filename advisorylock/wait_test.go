//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// blocker is the session that has the lock, as pg_locks shows it.
var blocker = advisorylock.Session{
	PID: 4711, Application: "deploy", User: "app", Client: "10.0.0.7:50123", State: "idle in transaction",
	Since: time.Date(2025, 3, 9, 12, 0, 0, 0, time.UTC), Query: lockSQL, Granted: true,
}

// showSessions makes the server answer the look at pg_locks.
func showSessions(d *recdriver.Driver, sessions ...advisorylock.Session) {
	d.OnQuery(func(recdriver.Call) ([]string, [][]driver.Value, error) {
		columns, rows := sessionRows(sessions...)
		return columns, rows, nil
	})
}

func sessionRows(sessions ...advisorylock.Session) (columns []string, rows [][]driver.Value) {
	for _, s := range sessions {
		since := 0.0
		if !s.Since.IsZero() {
			since = float64(s.Since.UnixMicro()) / 1e6
		}
		host, port, _ := strings.Cut(s.Client, ":")
		number, _ := strconv.ParseInt(port, 10, 64)
		if host == "local" {
			host, number = "", -1
		}
		rows = append(rows, []driver.Value{int64(s.PID), s.Application, s.User, host, number, s.State, since, s.Query, s.Granted, s.BlockedBy, true})
	}
	return []string{"pid", "application", "user", "host", "port", "state", "since", "query", "granted", "blocked by", "this key"}, rows
}

// A session that blocks keeps a snapshot, which CREATE INDEX CONCURRENTLY and
// vacuum wait for: one team's indexer went 22 hours without vacuum
// (EkuboProtocol/indexer#166). So no statement waits long, however long the wait
// is, and each one is in a transaction of its own.
//
// A setting that is local to a transaction has to be set in each, the one that is granted
// the lock above all: without it the lock of a frozen process stays.
func TestLongWaitGoesInBursts(t *testing.T) {
	t.Parallel()
	eachInEveryMode(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		const wait = 20*time.Second + 300*time.Millisecond
		time.AfterFunc(wait, lockElsewhere(t, d, key))
		begun := time.Now()
		var r locktrace.Recorder
		err := f.call(advisorylock.Locker{TTL: 90 * time.Second, Trace: r.Trace()}, t.Context(), db, key, func(context.Context) error {
			checkSame(t, "time until it was granted", time.Since(begun), wait)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, "steps", r.String(), "connect > begin > lock > commit > release")
		checkBursts(t, d)
		for _, c := range d.Calls() {
			limit := "pg_catalog.set_config('idle_in_transaction_session_timeout', '90000ms', true)"
			if strings.Contains(c.Query, "advisory_xact_lock") && !strings.Contains(c.Query, limit) {
				t.Errorf("got %s; want the TTL as its limit", c.Query)
			}
		}
	})
}

// checkBursts checks that nothing kept a snapshot for long, in a transaction of
// its own each, and that the server had little to do for it.
func checkBursts(t *testing.T, d *recdriver.Driver) {
	t.Helper()
	calls := d.Calls()
	bursts := 0
	inTx := map[int]int{} // bursts in the open transaction, by connection
	for _, c := range calls {
		switch {
		case c.Kind == recdriver.Begin:
			inTx[c.Conn] = 0
			if c.Isolation != sql.LevelReadCommitted {
				t.Errorf("got BEGIN %v; want READ COMMITTED", c.Isolation)
			}
		case c.Kind == recdriver.Exec && c.End.After(c.Start): // it blocked
			bursts++
			if inTx[c.Conn]++; inTx[c.Conn] > 1 {
				t.Error("two bursts in one transaction")
			}
			if took := c.End.Sub(c.Start); took > advisorylock.Burst {
				t.Errorf("one statement waited %v; want at most %v", took, advisorylock.Burst)
			}
		}
	}
	took := calls[len(calls)-1].End.Sub(calls[0].Start)
	if perSecond := float64(len(calls)) / took.Seconds(); bursts != 23 || perSecond > 10 {
		t.Errorf("got %d calls, %d of them bursts, in %v; want 23 bursts, and a few calls a second", len(calls), bursts, took)
	}
}

// A bare lock_timeout writes one ERROR to the server's log for each burst, and a
// statement that is interrupted does the same.
func TestWaitWithoutErrors(t *testing.T) {
	t.Parallel()
	for _, pooled := range []bool{false, true} {
		each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
			d.Server().SetPooled(pooled)
			waitUntil(t, f, d, db, 30500*time.Millisecond, advisorylock.Locker{})
			for _, c := range d.Calls() {
				if c.Err != nil {
					t.Errorf("%s %s: %v", c.Kind, c.Query, c.Err)
				}
			}
		})
	}
}

// lock_timeout and statement_timeout of the DSN, the role or the database are
// meant for the user's statements (pgmigrate#25). They do not end the wait.
func TestForeignTimeoutsDoNotEndTheWait(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"55P03", "57014"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				failed := 0
				d.OnCall(func(_ context.Context, c *recdriver.Call) error {
					if c.Kind != recdriver.Exec || failed == 3 {
						return nil
					}
					failed++
					return recdriver.SQLError{Code: code, Message: "canceling statement due to timeout"}
				})
				var r locktrace.Recorder
				if err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, noFn); err != nil {
					t.Fatal(err)
				}
				checkSame(t, "steps", r.String(), "connect > begin > lock > commit > release")
				if got := d.String(); strings.Count(got, "exec! > rollback > close > connect > begin > ") != 3 {
					t.Errorf("got %s; want a new connection each time: a cancel may be under way to the old one", got)
				}
			})
		})
	}
}

// … but a try has nothing to go on with.
func TestForeignTimeoutEndsATry(t *testing.T) {
	t.Parallel()
	each(t, tries, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.OnCall(recdriver.FailOn(recdriver.Exec, "", 1, recdriver.SQLError{Code: "57014", Message: "canceling statement due to statement timeout"}))
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn)
		checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Lock, "lock: ERROR: canceling statement due to statement timeout (SQLSTATE 57014)")
	})
}

// After the first burst the connection is another one, since a cancellation may
// be under way to the old one. The pool may hold stale ones by then.
func TestStaleConnectionInTheMiddleOfAWait(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		db.SetMaxIdleConns(5)
		fill(t, db, 5)
		go func() {
			time.Sleep(500 * time.Millisecond)
			for conn := range 5 {
				// All but the one that waits; the server closes idle ones.
				if conn+1 != waitingConn(d) {
					d.Kill(conn + 1)
				}
			}
		}()
		waitUntil(t, f, d, db, 5500*time.Millisecond, advisorylock.Locker{})
	})
}

// waitingConn returns the connection whose statement has not come back.
func waitingConn(d *recdriver.Driver) int {
	for _, c := range d.Calls() {
		if c.Kind == recdriver.Exec && c.End.IsZero() {
			return c.Conn
		}
	}
	return 0
}

// The pool may be full of the callbacks' own work when the wait needs another
// connection. That is waited for like any other, for as long as the context
// lasts, and a look at who has the lock does without.
func TestNoConnectionInTheMiddleOfAWait(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]time.Duration{"until one is free": time.Hour, "until the context ends": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				db.SetMaxOpenConns(2)
				conn, err := db.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				time.AfterFunc(30*time.Second, func() { conn.Close() })
				time.AfterFunc(500*time.Millisecond, func() { db.SetMaxOpenConns(1) })
				time.AfterFunc(time.Minute, lockElsewhere(t, d, key))
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				var r locktrace.Recorder
				begun := time.Now()
				err = advisorylock.Locker{Trace: r.Trace()}.WithXactLock(ctx, db, key, nothing)
				if len(r.Waits()) == 0 || len(r.Waits()[0].Holders) != 0 {
					t.Errorf("got reports %v; want one without holders", r.Waits())
				}
				if limit == time.Hour {
					if took := time.Since(begun); err != nil || took != time.Minute {
						t.Errorf("got %v after %v; want the lock after a minute", err, took)
					}
					return
				}
				if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, new(*advisorylock.WaitError)) {
					t.Errorf("got %v; want a WaitError", err)
				}
				checkSame(t, "steps", r.String(), "connect > begin > lock! > rollback > release")
			})
		})
	}
}

// A session that ends under a waiter takes nothing with it: the wait goes on with
// another one.
func TestWaitingSessionIsKilled(t *testing.T) {
	t.Parallel()
	eachInEveryMode(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		for n := range 10 {
			time.AfterFunc(time.Duration(n)*1700*time.Millisecond+50*time.Millisecond, func() { d.Kill(waitingConn(d)) })
		}
		var r locktrace.Recorder
		waitUntil(t, f, d, db, 20*time.Second, advisorylock.Locker{Trace: r.Trace()})
		checkSame(t, "steps", r.String(), "connect > begin > lock > commit > release")
	})
}

// Nor does one that ends while the lock is asked for the first time, be the server
// idle or in a crowd.
func TestSessionEndsAtTheFirstAsk(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]time.Duration{"idle": 0, "crowd": time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachInEveryMode(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				killed := false
				d.OnCall(func(_ context.Context, c *recdriver.Call) error {
					switch {
					case c.Kind == recdriver.Begin:
						time.Sleep(begin)
					case !killed && strings.Contains(c.Query, "advisory"):
						killed = true
						d.Kill(c.Conn)
					}
					return nil
				})
				if err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn); err != nil || !killed {
					t.Errorf("got %v, the session ended: %t; want the lock all the same", err, killed)
				}
			})
		})
	}
}

// Waiting says who is in the way, from the server when the lock is held by
// another process, and also to those who wait inside this one.
func TestWaitingHook(t *testing.T) {
	t.Parallel()
	for where, from := range places {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			eachInEveryMode(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				queuing := blocker
				queuing.PID, queuing.Granted = 4712, false
				showSessions(d, blocker, queuing)
				time.AfterFunc(25*time.Second, from.lock(t, d, db))

				var at []time.Duration
				begun := time.Now()
				start := func(ctx context.Context, e locktrace.Event) context.Context {
					return context.WithValue(ctx, stepKey{}, e.Step)
				}
				trace := &locktrace.Trace{Start: start, Waiting: func(ctx context.Context, w locktrace.Wait) {
					at = append(at, time.Since(begun))
					checkSame(t, "step of the context", ctx.Value(stepKey{}), any(from.step))
					if w.Key != int64(key) || w.Name != "app" || w.Waited != time.Since(begun) {
						t.Errorf("got %+v; want key 42, name app, waited %v", w, time.Since(begun))
					}
					if len(w.Holders) != 1 || !sameSession(w.Holders[0], blocker) {
						t.Errorf("got holders %v; want %v, and nobody who waits", w.Holders, blocker)
					}
				}}
				if err := f.call(advisorylock.Locker{Trace: trace, Name: "app"}, t.Context(), db, key, noFn); err != nil {
					t.Fatal(err)
				}
				if want := []time.Duration{time.Second, 11 * time.Second, 21 * time.Second}; !slices.Equal(at, want) {
					t.Errorf("called at %v; want %v", at, want)
				}
			})
		})
	}
}

// places are where a waiter may find its lock held, with the step that it is in then.
var places = map[string]struct {
	step locktrace.Step
	lock func(t *testing.T, d *recdriver.Driver, db *sql.DB) (free func())
}{
	"on the server":  {locktrace.Lock, func(t *testing.T, d *recdriver.Driver, _ *sql.DB) func() { return lockElsewhere(t, d, key) }},
	"in the process": {locktrace.Connect, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) func() { return lockHere(t, db, key) }},
}

// lockHere takes key as another call in this process does, until free is called.
func lockHere(t *testing.T, db *sql.DB, key advisorylock.Key) (free func()) {
	t.Helper()
	done := make(chan struct{})
	free = sync.OnceFunc(func() { close(done) })
	wait := queued(1, func(int) {
		err := advisorylock.WithXactLock(context.Background(), db, key, func(context.Context, *sql.Tx) error { <-done; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { free(); wait() })
	return free
}

// Statements that take long are no reason to be silent.
func TestWaitingHookDuringALongStatement(t *testing.T) {
	t.Parallel()
	for _, pooled := range []bool{false, true} {
		each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
			d.Server().SetPooled(pooled)
			showSessions(d, blocker)
			d.OnCall(recdriver.DelayOn(recdriver.Exec, "", 700*time.Millisecond))
			time.AfterFunc(15*time.Second, lockElsewhere(t, d, key))
			var r locktrace.Recorder
			if err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, noFn); err != nil {
				t.Fatal(err)
			}
			w := r.Waits()
			if len(w) < 2 || w[0].Waited != time.Second || w[1].Waited != 11*time.Second || len(w[0].Holders) != 1 {
				t.Errorf("got %+v; want the first after a second and the next ten seconds later, with the holder", w)
			}
		})
	}
}

// Callers of one key in one process ask once for all of them who is in the way.
func TestOneLookForAllCallers(t *testing.T) {
	t.Parallel()
	each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		showSessions(d, blocker)
		d.OnCall(recdriver.DelayOn(recdriver.Query, "", 50*time.Millisecond))
		lockElsewhere(t, d, key)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var r locktrace.Recorder
		const callers = 90
		for i, err := range goAll(callers, func(int) error {
			return f.call(advisorylock.Locker{Trace: r.Trace()}, ctx, db, key, noFn)
		}) {
			var wait *advisorylock.WaitError
			if !errors.As(err, &wait) || len(wait.Holders) != 1 {
				t.Errorf("call %d: got %v; want a WaitError with the holder", i, err)
			}
		}
		checkSame(t, "reports, one for each caller", len(r.Waits()), callers)
		checkSame(t, "looks, after a second and at the end", strings.Count(d.String(), "query"), 2)
		if n := strings.Count(d.String(), "connect"); n > 3 {
			t.Errorf("opened %d connections; want one for the wait and one for a look, and no more than three", n)
		}
	})
}

// Through another pool a call may wait for itself, which nothing can tell for sure.
// It must not be advised to end its own session.
func TestNestedThroughAnotherPool(t *testing.T) {
	t.Parallel()
	for _, outer := range waiters {
		each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
			showSessions(d, blocker)
			other := d.Server().Driver(recdriver.Plain).OpenDB()
			defer other.Close()
			err := outer.call(advisorylock.Locker{}, t.Context(), other, key, func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				err := f.call(advisorylock.Locker{}, ctx, db, key, noFn)
				if want := "for this call itself, which has the key through another *sql.DB"; !errors.As(err, new(*advisorylock.WaitError)) ||
					!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "terminate") {
					t.Errorf("got %v; want a WaitError that says %q", err, want)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func sameSession(a, b advisorylock.Session) bool {
	since := a.Since.Equal(b.Since)
	a.Since, b.Since = time.Time{}, time.Time{}
	return since && a == b
}

// Nobody pays for a look at pg_locks that nobody asked for, or that a short wait does not
// come to.
func TestNoLook(t *testing.T) {
	t.Parallel()
	var r locktrace.Recorder
	for name, tt := range map[string]struct {
		trace *locktrace.Trace
		wait  time.Duration
	}{
		"short wait": {r.Trace(), time.Second - time.Millisecond},
		"no hook":    {&locktrace.Trace{Done: func(context.Context, locktrace.Event) {}}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				waitUntil(t, f, d, db, tt.wait, advisorylock.Locker{Trace: tt.trace})
				if got := r.Waits(); len(got) != 0 || strings.Contains(d.String(), "query") {
					t.Errorf("got reports %v, calls %s; want no report and no look", got, d)
				}
			})
		})
	}
}

// Hooks only watch: a look at pg_locks that is slow, or not allowed, does not
// end the wait.
func TestLookThatFailsDoesNotEndTheWait(t *testing.T) {
	t.Parallel()
	for name, hook := range brokenLooks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				d.OnCall(hook)
				var r locktrace.Recorder
				waitUntil(t, f, d, db, 8*time.Second, advisorylock.Locker{Trace: r.Trace()})
				time.Sleep(2 * time.Hour) // what hung has come back
				if got := r.Waits(); len(got) != 1 || len(got[0].Holders) != 0 {
					t.Errorf("got %v; want one report, without holders", got)
				} else if name == "denied" {
					checkIs(t, got[0].Err, errDenied)
				}
				failed := 0 // the connection whose look failed
				for _, c := range d.Calls() {
					if c.Conn == failed && (c.Kind == recdriver.Begin || c.Kind == recdriver.Exec) {
						t.Errorf("%s on connection %d, whose look had failed; want it closed", c.Kind, c.Conn)
					}
					if c.Kind == recdriver.Query || c.Kind == recdriver.Begin && c.ReadOnly {
						failed = c.Conn
					}
				}
			})
		})
	}
}

var errDenied = recdriver.SQLError{Code: "42501", Message: "permission denied for view pg_locks"}

var brokenLooks = map[string]func(context.Context, *recdriver.Call) error{
	"denied":    recdriver.FailOn(recdriver.Query, "", 0, errDenied),
	"slow":      recdriver.BlockOn(recdriver.Query, "", nil),
	"very slow": recdriver.DelayOn(recdriver.Query, "", 5200*time.Millisecond),
	"gone":      recdriver.FailOn(recdriver.Query, "", 0, driver.ErrBadConn),
	"no begin":  onReadOnlyBegin(func() error { return driver.ErrBadConn }),
	"hangs":     onReadOnlyBegin(func() error { time.Sleep(time.Hour); return nil }),
}

// onReadOnlyBegin is a hook for the BEGIN of the look at pg_locks.
func onReadOnlyBegin(do func() error) func(context.Context, *recdriver.Call) error {
	return func(_ context.Context, c *recdriver.Call) error {
		if c.Kind == recdriver.Begin && c.ReadOnly {
			return do()
		}
		return nil
	}
}

// "Lock timeout" alone sends people to the wiki. The error names the key, who has
// it, and the SQL that would end that session (bifrost#3308, adcp#3509).
func TestWaitErrorSaysWhoIsInTheWay(t *testing.T) {
	t.Parallel()
	for where, from := range places {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			eachInEveryMode(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				showSessions(d, blocker)
				from.lock(t, d, db)
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				err := f.call(advisorylock.Locker{Name: "app"}, ctx, db, key, noFn)
				var wait *advisorylock.WaitError
				if !errors.As(err, &wait) {
					t.Fatalf("got %v; want a WaitError", err)
				}
				if len(wait.Holders) != 1 || !sameSession(wait.Holders[0], blocker) {
					t.Errorf("got holders %v; want %v", wait.Holders, blocker)
				}
				text := err.Error()
				for _, want := range []string{
					"advisorylock." + f.op + " app: " + string(from.step) + ": ", "context deadline exceeded",
					"after waiting 500ms; held by pid 4711 (deploy, user app, from 10.0.0.7:50123, idle in transaction, since ",
					"; to end it: SELECT pg_catalog.pg_terminate_backend(4711)",
				} {
					if !strings.Contains(text, want) {
						t.Errorf("got %s; want %q in it", text, want)
					}
				}
			})
		})
	}
}

// The look at who has the lock never hides the error and never hangs, not even
// on a pool of one whose connection is in use.
func TestWaitErrorWithoutHolders(t *testing.T) {
	t.Parallel()
	looks := maps.Clone(brokenLooks)
	looks["pool full"] = nil
	delete(looks, "very slow") // what ends it waits for a mutex, which stops the clock
	for name, hook := range looks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				lockHere(t, db, key)
				if hook == nil {
					db.SetMaxOpenConns(1)
				} else {
					d.OnCall(hook)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				begun := time.Now()
				err := advisorylock.WithXactLock(ctx, db, key, unreachable(t))
				if took := time.Since(begun); took > 3*time.Second {
					t.Errorf("took %v; want little more than a second", took)
				}
				var waited *advisorylock.WaitError
				if !errors.As(err, &waited) || len(waited.Holders) != 0 || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v; want a WaitError without holders", err)
				}
				time.Sleep(2 * time.Hour) // what hung has come back
			})
		})
	}
}
