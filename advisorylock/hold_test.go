//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// The transaction of a lease does nothing but lock: one that has read or written
// a table would hang the CREATE INDEX CONCURRENTLY of its own callback.
func TestHoldCalls(t *testing.T) {
	t.Parallel()
	eachInEveryMode(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		var r locktrace.Recorder
		var given context.Context
		err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, func(ctx context.Context) error {
			given = ctx
			checkSame(t, "holders while the function runs", d.Server().Held()[int64(key)], 1)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, "calls", d.String(), "connect > begin > exec > commit > release")
		checkSame(t, "steps", r.String(), "connect > begin > lock > commit > release")
		if given.Err() == nil {
			t.Error("the function's context lives on: what it has started and not waited for must end with the lock")
		}
	})
}

// The statement that takes a lease sets its limit and lifts all others, in the
// same Exec, so that there is no moment without them.
func TestLeaseStatement(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		locker advisorylock.Locker
		limit  string // of an idle transaction
		label  string
	}{
		{"default", advisorylock.Locker{}, "30000ms", ""},
		{"short", advisorylock.Locker{TTL: 1500 * time.Millisecond}, "1500ms", ""},
		{"below the floor", advisorylock.Locker{TTL: time.Nanosecond}, "1000ms", ""},
		{"negative", advisorylock.Locker{TTL: -time.Hour}, "1000ms", ""},
		{"beyond the server's range", advisorylock.Locker{TTL: math.MaxInt64}, "2147483647ms", ""},
		// pg_stat_activity shows the name for as long as the lease lasts.
		{"named", advisorylock.Locker{Name: "a*/b"}, "30000ms", "/* bootlock: a__b */ "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				if err := f.call(tt.locker, t.Context(), db, key, noFn); err != nil {
					t.Fatal(err)
				}
				lock := d.Calls()[2]
				want := "SELECT " + tt.label + "pg_catalog.pg_advisory_xact_lock(42), "
				// Before what is left of the last holder is looked at: to look again takes a while.
				limit := "pg_try_advisory_xact_lock(42) AND pg_catalog.set_config('idle_in_transaction_session_timeout', '" + tt.limit + "', true) IS NOT NULL AND "
				if lock.Kind != recdriver.Exec || !strings.HasPrefix(lock.Query, want) || !strings.Contains(lock.Query, limit) {
					t.Errorf("got  %s %s\nwant exec %s…", lock.Kind, lock.Query, want)
				}
				for _, name := range []string{"statement_timeout", "transaction_timeout"} {
					if lift := "pg_catalog.set_config('" + name + "', '0', true)"; !strings.Contains(lock.Query, lift) {
						t.Errorf("got %s; want %s in it", lock.Query, lift)
					}
				}
			})
		})
	}
}
