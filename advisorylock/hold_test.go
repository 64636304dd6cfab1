//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// The transaction of a lease does nothing but lock: one that has read or written
// a table would hang the CREATE INDEX CONCURRENTLY of its own callback.
func TestHoldCalls(t *testing.T) {
	t.Parallel()
	for _, f := range leases {
		t.Run(f.op, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				var r locktrace.Recorder
				err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, func(context.Context) error {
					if n := d.Server().Held()[int64(key)]; n != 1 {
						t.Errorf("got %d holders while the function runs; want 1", n)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if got, want := d.String(), "connect > begin > exec > commit > release"; got != want {
					t.Errorf("got calls %s; want %s", got, want)
				}
				if got, want := r.String(), "connect > begin > lock > commit > release"; got != want {
					t.Errorf("got steps %s; want %s", got, want)
				}
				begin := d.Calls()[1]
				if begin.Isolation != sql.LevelReadCommitted || begin.ReadOnly {
					t.Errorf("got BEGIN %v, read-only %t; want READ COMMITTED", begin.Isolation, begin.ReadOnly)
				}
			})
		})
	}
}

// The function has the whole pool, but not the lock's own connection.
func TestHoldFnUsesThePool(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		db.SetMaxOpenConns(2)
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, func(ctx context.Context) error { return usePool(ctx, db) })
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range d.Calls() {
			if strings.HasPrefix(c.Query, "CREATE TABLE") && c.Conn == 1 {
				t.Error("the function worked on the lock's connection")
			}
		}
	})
}

const liftSQL = "SET LOCAL statement_timeout = 0; " +
	"SELECT CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL " +
	"THEN pg_catalog.set_config('transaction_timeout', '0', true) END; "

// The server gets the TTL in the same Exec as the lock, and what else could end
// the transaction early is lifted: transaction_timeout only where it exists,
// since before PostgreSQL 17 to set it is an error.
func TestLeaseStatement(t *testing.T) {
	t.Parallel()
	burst := func(ttl, burst, lock, try string) string {
		return "SET LOCAL idle_in_transaction_session_timeout = '" + ttl + "'; " + liftSQL +
			"SELECT pg_catalog.set_config('lock_timeout', '" + burst + "', true), pg_catalog.set_config('statement_timeout', '0', true); " +
			"DO $bootlock$ BEGIN PERFORM pg_catalog." + lock + "(42); EXCEPTION WHEN lock_not_available THEN NULL; END $bootlock$; " +
			"SELECT 1 WHERE pg_catalog." + try + "(42)"
	}
	for _, tt := range []struct {
		name   string
		locker advisorylock.Locker
		hold   string
		try    string
	}{
		{
			name: "default", hold: burst("30000ms", "1000ms", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock"),
			try: "SET LOCAL idle_in_transaction_session_timeout = '30000ms'; " + liftSQL + "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(42)",
		},
		{
			name: "shared", locker: advisorylock.Locker{Shared: true},
			hold: burst("30000ms", "1000ms", "pg_advisory_xact_lock_shared", "pg_try_advisory_xact_lock_shared"),
			try:  "SET LOCAL idle_in_transaction_session_timeout = '30000ms'; " + liftSQL + "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock_shared(42)",
		},
		{
			// A burst must leave most of the lease to the holder.
			name: "short", locker: advisorylock.Locker{TTL: 1500 * time.Millisecond},
			hold: burst("1500ms", "500ms", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock"),
			try:  "SET LOCAL idle_in_transaction_session_timeout = '1500ms'; " + liftSQL + "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(42)",
		},
		{
			name: "below the floor", locker: advisorylock.Locker{TTL: time.Nanosecond},
			hold: burst("1000ms", "333ms", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock"),
			try:  "SET LOCAL idle_in_transaction_session_timeout = '1000ms'; " + liftSQL + "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(42)",
		},
		{
			name: "negative", locker: advisorylock.Locker{TTL: -time.Hour},
			hold: burst("1000ms", "333ms", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock"),
			try:  "SET LOCAL idle_in_transaction_session_timeout = '1000ms'; " + liftSQL + "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(42)",
		},
		{
			name: "beyond the server's range", locker: advisorylock.Locker{TTL: math.MaxInt64},
			hold: burst("2147483647ms", "1000ms", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock"),
			try:  "SET LOCAL idle_in_transaction_session_timeout = '2147483647ms'; " + liftSQL + "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(42)",
		},
		{
			// pg_stat_activity shows the name for as long as the lease lasts.
			name: "named", locker: advisorylock.Locker{Name: "a*/b"},
			hold: "/* bootlock: a__b */ " + burst("30000ms", "1000ms", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock"),
			try:  "/* bootlock: a__b */ SET LOCAL idle_in_transaction_session_timeout = '30000ms'; " + liftSQL + "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(42)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				if err := f.call(tt.locker, t.Context(), db, key, func(context.Context) error { return nil }); err != nil {
					t.Fatal(err)
				}
				want := tt.hold
				if f.try {
					want = tt.try
				}
				lock := d.Calls()[2]
				if lock.Kind != recdriver.Exec || lock.Query != want {
					t.Errorf("got  %s %s\nwant exec %s", lock.Kind, lock.Query, want)
				}
			})
		})
	}
}

// The timeouts that a burst sets are not those that the callback should work
// under. SET LOCAL … TO DEFAULT would lose an earlier SET of the session, so
// they are saved and restored.
func TestBurstOfXactGivesTheTimeoutsBack(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		time.AfterFunc(1500*time.Millisecond, lockElsewhere(t, d, key))
		if err := advisorylock.WithXactLock(t.Context(), db, key, nothing); err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, c := range d.Calls() {
			if c.Kind == recdriver.Exec {
				texts = append(texts, c.Query)
			}
		}
		want := "SELECT pg_catalog.set_config('bootlock.lock_timeout', pg_catalog.current_setting('lock_timeout'), true), " +
			"pg_catalog.set_config('bootlock.statement_timeout', pg_catalog.current_setting('statement_timeout'), true), " +
			"pg_catalog.set_config('lock_timeout', '1000ms', true), pg_catalog.set_config('statement_timeout', '0', true); " +
			"DO $bootlock$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(42); EXCEPTION WHEN lock_not_available THEN NULL; END $bootlock$; " +
			"SELECT pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('bootlock.lock_timeout'), true), " +
			"pg_catalog.set_config('statement_timeout', pg_catalog.current_setting('bootlock.statement_timeout'), true); " +
			"SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(42)"
		if len(texts) != 2 || texts[0] != lockSQL || texts[1] != want {
			t.Errorf("got  %s\nwant %s\nand  %s", strings.Join(texts, "\n     "), lockSQL, want)
		}
	})
}

func TestHoldOnPoolOfOne(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		db.SetMaxOpenConns(1)
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, func(context.Context) error {
			t.Error("the function was called")
			return nil
		})
		if !errors.Is(err, advisorylock.ErrPoolTooSmall) {
			t.Errorf("got %v; want ErrPoolTooSmall", err)
		}
		checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Connect,
			"connect: advisorylock: the pool is too small: raise SetMaxOpenConns, or lock on a pool of its own")
		if got := d.String(); got != "" {
			t.Errorf("got %s; want nothing sent", got)
		}
	})
}

func TestHoldFailures(t *testing.T) {
	t.Parallel()
	boom := recdriver.SQLError{Code: "53100", Message: "disk full"}
	for _, tt := range []struct {
		kind  recdriver.Kind
		step  locktrace.Step
		steps string
		lost  bool
	}{
		{recdriver.Connect, locktrace.Connect, "connect!", false},
		{recdriver.Begin, locktrace.Begin, "connect > begin! > release", false},
		{recdriver.Exec, locktrace.Lock, "connect > begin > lock! > rollback > release", false},
		{recdriver.Commit, "", "connect > begin > lock > commit! > release", true},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			t.Parallel()
			each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				d.OnCall(recdriver.FailOn(tt.kind, "", 1, boom))
				var r locktrace.Recorder
				called := false
				err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, func(context.Context) error {
					called = true
					return nil
				})
				if got := r.String(); got != tt.steps {
					t.Errorf("got %s; want %s", got, tt.steps)
				}
				if as := (recdriver.SQLError{}); !errors.As(err, &as) || as != boom {
					t.Errorf("got %v; want the driver's error in its chain", err)
				}
				if got := errors.Is(err, advisorylock.ErrLost); got != tt.lost || called != tt.lost {
					t.Errorf("got %v, function called: %t; want ErrLost, and called: %t", err, called, tt.lost)
				}
				if !tt.lost {
					checkStep(t, err, "advisorylock."+f.op, "42", tt.step, string(tt.step)+": ERROR: disk full (SQLSTATE 53100)")
				}
			})
		})
	}
}

// Nobody may take the lock for as long as the function runs, even if that takes
// no notice of the end of its context; then it is free at once.
func TestHoldKeepsTheLockUntilFnReturns(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		const deaf = 45 * time.Second // and some heartbeats
		ctx, cancel := context.WithCancelCause(t.Context())
		begun := time.Now()
		other := make(chan time.Duration, 1)
		err := f.call(advisorylock.Locker{}, ctx, db, key, func(ctx context.Context) error {
			pool := elsewhere(t, d)
			go func() {
				if err := advisorylock.WithXactLock(context.Background(), pool, key, nothing); err != nil {
					t.Error(err)
				}
				other <- time.Since(begun)
			}()
			cancel(errShutdown)
			if got := context.Cause(ctx); !errors.Is(got, errShutdown) {
				t.Errorf("got cause %v; want %v", got, errShutdown)
			}
			time.Sleep(deaf)
			return nil
		})
		if err != nil {
			t.Errorf("got %v; want nil: the function did its work under the lock", err)
		}
		if got := <-other; got != deaf {
			t.Errorf("another process had the lock after %v; want %v", got, deaf)
		}
		synctest.Wait()
	})
}

// Nothing was written, so a COMMIT that does not come back is not worth waiting
// for, even if the context goes on for ever: only the lock is in doubt.
func TestHoldDoesNotHangInCommit(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		comeBack := hang(d, recdriver.Commit)
		begun := time.Now()
		err := f.call(advisorylock.Locker{}, context.Background(), db, key, func(context.Context) error { return nil })
		if took := time.Since(begun); took < advisorylock.EndTime || took > 2*advisorylock.EndTime {
			t.Errorf("took %v; want a little more than %v", took, advisorylock.EndTime)
		}
		if !errors.Is(err, advisorylock.ErrLost) {
			t.Errorf("got %v; want ErrLost", err)
		}
		comeBack()
		synctest.Wait()
		closedAndNeverPooled(t, d, 1)
	})
}
