//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/recdriver"
)

func TestSessions(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		poll := advisorylock.Session{PID: 6, State: "active", Query: "SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock_shared(42)"}
		want := []advisorylock.Session{
			blocker,
			{PID: 2, Granted: true}, // of another role
			{PID: 5, Granted: true, State: "active", BlockedBy: "4711, 4712"},
			{State: "prepared transaction", Granted: true},
			poll, // it has the key for a moment only
			{PID: 3, Client: "local", State: "active", Since: time.UnixMicro(1700000000123456)},
		}
		poll.Granted = true
		showSessions(d, slices.Concat([]advisorylock.Session{poll}, want[:4], want[5:])...)
		got, err := advisorylock.Sessions(t.Context(), db, key)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("got %d sessions; want %d", len(got), len(want))
		}
		for i := range want {
			if d := got[i].Since.Sub(want[i].Since); d.Abs() <= time.Microsecond {
				got[i].Since = want[i].Since // a float has about as many digits
			}
			if !sameSession(got[i], want[i]) {
				t.Errorf("got  %+v\nwant %+v", got[i], want[i])
			}
		}
		checkSame(t, "calls", d.String(), "connect > begin > query > rollback > release")
		// On a standby lib/pq cannot begin anything else.
		if begin := d.Calls()[1]; !begin.ReadOnly || begin.Isolation != sql.LevelReadCommitted {
			t.Errorf("got BEGIN %v, read-only %t; want READ COMMITTED, read-only", begin.Isolation, begin.ReadOnly)
		}
	})
}

// pg_locks shows a bigint key as two unsigned halves.
func TestSessionsOfAnyKey(t *testing.T) {
	t.Parallel()
	for key, want := range map[advisorylock.Key][2]string{
		0:                    {"0", "0"},
		42:                   {"0", "42"},
		-1:                   {"4294967295", "4294967295"},
		math.MinInt64:        {"2147483648", "0"},
		math.MaxInt64:        {"2147483647", "4294967295"},
		0x0000000180000000:   {"1", "2147483648"},
		-6813155839046105269: {"2708655836", "2923906891"}, // KeyOf("app"), a172cedc ae47474b
		-0x7fffffff_80000001: {"2147483648", "2147483647"},
	} {
		bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
			if _, err := advisorylock.Sessions(t.Context(), db, key); err != nil {
				t.Fatal(err)
			}
			text := d.Calls()[2].Query
			for column, half := range map[string]string{"classid": want[0], "objid": want[1]} {
				if !strings.Contains(text, "l."+column+" OPERATOR(pg_catalog.=) '"+half+"'::pg_catalog.oid") {
					t.Errorf("key %d: want %s = %s in\n%s", key, column, half, text)
				}
			}
		})
	}
}

// pgx names the statement that it prepares after its text, and behind PgBouncer
// that name may exist already, from another client.
func TestSessionsTextIsNeverTheSame(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		texts := map[string]bool{}
		for range 20 {
			if _, err := advisorylock.Sessions(t.Context(), db, key); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range d.Calls() {
			if c.Kind == recdriver.Query {
				texts[c.Query] = true
			}
			if len(c.Args) > 0 {
				t.Errorf("got arguments %v; want none", c.Args)
			}
		}
		if len(texts) != 20 {
			t.Errorf("got %d texts for 20 calls; want 20", len(texts))
		}
	})
}

// An answer that ends with an error, after some of its rows, is no answer: the one
// holder that matters may be missing.
func TestSessionsFailures(t *testing.T) {
	t.Parallel()
	boom := recdriver.SQLError{Code: "42501", Message: "permission denied"}
	columns, rows := sessionRows(blocker)
	for name, tt := range map[string]struct {
		kind    recdriver.Kind // that fails
		columns []string
		rows    [][]driver.Value
		want    error // nil is any
		calls   string
	}{
		"connect":      {kind: recdriver.Connect, want: boom, calls: "connect!"},
		"begin":        {kind: recdriver.Begin, want: boom, calls: "connect > begin! > release"},
		"query":        {kind: recdriver.Query, want: boom, calls: "connect > begin > query! > rollback > release"},
		"cut short":    {columns: columns, rows: append(rows, []driver.Value{boom}), want: boom, calls: "connect > begin > query > rollback > release"},
		"other column": {columns: []string{"pid"}, rows: [][]driver.Value{{int64(1)}}, calls: "connect > begin > query > rollback > release"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				if tt.kind != "" {
					d.OnCall(recdriver.FailOn(tt.kind, "", 1, boom))
				}
				d.OnQuery(func(recdriver.Call) ([]string, [][]driver.Value, error) { return tt.columns, tt.rows, nil })
				sessions, err := advisorylock.Sessions(t.Context(), db, key)
				if err == nil || sessions != nil || !strings.HasPrefix(err.Error(), "advisorylock.Sessions 42: ") {
					t.Errorf("got %v, %v; want no sessions, and an error that names the operation", sessions, err)
				}
				if tt.want != nil {
					checkIs(t, err, tt.want)
				}
				checkSame(t, "calls", d.String(), tt.calls)
			})
		})
	}
}

func TestSessionsIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	for _, kind := range []recdriver.Kind{recdriver.Connect, recdriver.Begin, recdriver.Query, recdriver.Rollback} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				comeBack := hang(d, kind)
				err, took := cancelDuring(t, d, kind, func(ctx context.Context) error {
					_, err := advisorylock.Sessions(ctx, db, key)
					return err
				})
				checkSame(t, "time after the context", took, bounded.Grace)
				if kind != recdriver.Rollback {
					checkIs(t, err, context.Canceled, errShutdown)
				}
				comeBack()
				synctest.Wait()
				closedAndNeverPooled(t, d, 1)
			})
		})
	}
}

// Callers of one key share a look, and one that it was not begun for does not take the end
// of that call's context for the reason of its own wait.
func TestSharedLookEndsWithAnotherCall(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		time.AfterFunc(5*time.Second, lockElsewhere(t, d, key))
		d.OnQuery(func(recdriver.Call) ([]string, [][]driver.Value, error) {
			columns, rows := sessionRows(blocker)
			return columns, rows, nil
		})
		other, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		d.OnCall(func(ctx context.Context, c *recdriver.Call) error {
			if c.Kind == recdriver.Query && other.Err() == nil {
				<-ctx.Done()
			}
			return ctx.Err()
		})
		wait := queued(1, func(int) {
			trace := &locktrace.Trace{Waiting: func(context.Context, locktrace.Wait) {}}
			_ = advisorylock.Locker{Trace: trace}.WithXactLock(other, db, key, nothing)
		})
		time.Sleep(time.Millisecond) // its look is the first
		var r locktrace.Recorder
		if err := (advisorylock.Locker{Trace: r.Trace()}).WithXactLock(t.Context(), db, key, nothing); err != nil {
			t.Error(err)
		}
		wait()
		if waits := r.Waits(); len(waits) != 1 || waits[0].Err != nil || len(waits[0].Holders) != 1 {
			t.Errorf("told of %+v; want one wait, for the one session", waits)
		}
	})
}
