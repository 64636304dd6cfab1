//go:build go1.25

package bounded_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/recdriver"
)

var errBoom, errCause = errors.New("boom"), errors.New("cause")

// bubble runs test, in parallel, in a synctest bubble, which fails if a goroutine
// outlives it, and checks that no connection does.
func bubble(t *testing.T, test func(t *testing.T, d *recdriver.Driver, db *sql.DB)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := recdriver.New()
		db := d.OpenDB()
		t.Cleanup(func() {
			synctest.Wait()
			if n := db.Stats().InUse; n > 0 {
				t.Errorf("%d connections never came back to the pool", n)
			}
			db.Close()
			synctest.Wait()
			if n := d.Open(); n > 0 {
				t.Errorf("%d connections still open", n)
			}
		})
		test(t, d, db)
	})
}

// each runs test once per entry of tests, in bubbles.
func each[T any](t *testing.T, tests map[string]T, test func(t *testing.T, row T, d *recdriver.Driver, db *sql.DB)) {
	t.Helper()
	t.Parallel()
	for name, row := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) { test(t, row, d, db) })
		})
	}
}

// begun returns a connection with a transaction.
func begun(t *testing.T, db *sql.DB) *bounded.Conn {
	t.Helper()
	c, err := bounded.Open(t.Context(), db)
	if err == nil {
		err = c.Begin(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A healthy driver needs a round trip to come back; what it says then counts.
func TestDoWaitsForTheGrace(t *testing.T) {
	type test struct {
		late time.Duration // after the end of the context
		want error
	}
	each(t, map[string]test{
		"at once":          {0, errBoom},
		"within the grace": {bounded.Grace - 1, errBoom},
		"too late":         {bounded.Grace + 1, bounded.ErrNoReturn},
		"much too late":    {time.Hour, bounded.ErrNoReturn},
	}, func(t *testing.T, test test, _ *recdriver.Driver, _ *sql.DB) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errCause)
		defer cancel()
		start := time.Now()
		err := bounded.Do(ctx, func() error {
			time.Sleep(time.Minute + test.late)
			return errBoom
		})
		if !errors.Is(err, test.want) || test.late > 0 && !errors.Is(err, errCause) {
			t.Errorf("got %v; want %v, and why the context ended", err, test.want)
		}
		if took, want := time.Since(start), time.Minute+min(test.late, bounded.Grace); took != want {
			t.Errorf("took %v; want %v", took, want)
		}
		time.Sleep(time.Hour) // the call comes back to nobody
	})
}

// Whatever waits runs the hooks, on its own goroutine and with its own context: also
// in a call whose context never ends.
func TestHooks(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(context.Background(), key{}, "caller")
	each(t, map[string]func(ctx context.Context, c *bounded.Conn, until <-chan struct{}) error{
		"Do": func(ctx context.Context, _ *bounded.Conn, until <-chan struct{}) error {
			return bounded.Do(ctx, func() error { <-until; return nil })
		},
		"Exec": func(ctx context.Context, c *bounded.Conn, _ <-chan struct{}) error {
			_, err := c.Exec(ctx, "SELECT 1")
			return err
		},
	}, func(t *testing.T, wait func(context.Context, *bounded.Conn, <-chan struct{}) error, d *recdriver.Driver, db *sql.DB) {
		c := begun(t, db)
		hooks, told := make(chan func(context.Context), 1), make(chan struct{})
		d.OnCall(recdriver.HangOn(recdriver.Exec, "", told))
		var at, from any
		hooks <- func(ctx context.Context) {
			at, from = goroutine(), ctx.Value(key{})
			close(told)
		}
		if err := wait(bounded.WithHooks(ctx, hooks), c, told); err != nil {
			t.Error(err)
		}
		if want := goroutine(); at != want || from != "caller" {
			t.Errorf("the hook ran on goroutine %v, from %v; want %s, from the caller", at, from, want)
		}
		_ = c.Release(t.Context())

		none := bounded.WithHooks(bounded.WithHooks(ctx, hooks), nil)
		if _ = bounded.Do(none, func() error { at = goroutine(); return nil }); at != goroutine() {
			t.Error("without hooks or an end of its context, the call has a goroutine of its own")
		}
	})
}

func goroutine() string {
	stack := make([]byte, 64)
	return strings.Fields(string(stack[:runtime.Stack(stack, false)]))[1]
}

func TestDoGoexit(t *testing.T) {
	bubble(t, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
		err := bounded.Do(t.Context(), func() error { runtime.Goexit(); return nil })
		if err == nil || !strings.Contains(err.Error(), "ended its goroutine") {
			t.Errorf("got %v; want an error that says so", err)
		}
	})
}

func TestUserEndsTheTransaction(t *testing.T) {
	bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		c := begun(t, db)
		if err := c.Tx().Commit(); err != nil {
			t.Fatal(err)
		}
		if err := c.Rollback(t.Context()); err != nil {
			t.Errorf("Rollback: got %v; want nil, it is over", err)
		}
		if err := c.Begin(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Tx().Rollback(); err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(t.Context()); !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("Commit: got %v; want sql.ErrTxDone", err)
		}
		_ = c.Release(t.Context())
		if got, want := d.String(), "connect > begin > commit > begin > rollback > release"; got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	})
}

func TestDistrust(t *testing.T) {
	bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		c := begun(t, db)
		c.Distrust()
		if err := c.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
		if err := c.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if got, want := d.String(), "connect > begin > rollback > close"; got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	})
}

// With BeginTx(ctx), database/sql rolls back as soon as ctx ends.
func TestTransactionOutlivesTheContextOfBegin(t *testing.T) {
	bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		type key struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		c, err := bounded.Open(ctx, db)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Begin(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true}); err != nil {
			t.Fatal(err)
		}
		if begin := d.Calls()[1]; begin.Isolation != sql.LevelSerializable || !begin.ReadOnly {
			t.Errorf("got BEGIN %v, read-only %t; want the options that were given", begin.Isolation, begin.ReadOnly)
		}
		if got := c.TxContext().Value(key{}); got != "value" {
			t.Errorf("got value %v; want that of the caller's context", got)
		}
		cancel()
		synctest.Wait()
		if _, err := c.Exec(t.Context(), "SELECT 1"); err != nil {
			t.Errorf("got %v; want the transaction to go on", err)
		}
		if err := c.Commit(t.Context()); err != nil {
			t.Error(err)
		}
		_ = c.Release(t.Context())
	})
}

// BEGIN may succeed at the moment at which its context ends.
func TestBeginAtTheEndOfItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		ctx, cancel := context.WithCancelCause(t.Context())
		d.OnCall(func(_ context.Context, c *recdriver.Call) error {
			if c.Kind == recdriver.Begin {
				return recdriver.Later(func() { cancel(errBoom) })
			}
			return nil
		})
		c, err := bounded.Open(ctx, db)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Begin(ctx, nil); !errors.Is(err, errBoom) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v; want the end of the context", err)
		}
		if c.Tx() != nil {
			t.Error("there is still a transaction")
		}
		_ = c.Release(t.Context())
		synctest.Wait()
		if got := d.String(); !strings.HasPrefix(got, "connect > begin > rollback") {
			t.Errorf("got %s; want a rollback", got)
		}
	})
}

// Once a call has not come back, nothing more is asked of the connection, and it is
// closed when the driver lets go of it. The context of the transaction ends, for a
// driver that heeds it: COMMIT and ROLLBACK get no other.
func TestStuckConnection(t *testing.T) {
	type test struct {
		kind recdriver.Kind
		call func(c *bounded.Conn, ctx context.Context) error
	}
	exec := func(c *bounded.Conn, ctx context.Context) error { _, err := c.Exec(ctx, "SELECT 1"); return err }
	each(t, map[string]test{
		"begin": {recdriver.Begin, func(c *bounded.Conn, ctx context.Context) error { return c.Begin(ctx, nil) }},
		"exec":  {recdriver.Exec, exec},
		"query": {recdriver.Query, func(c *bounded.Conn, ctx context.Context) error {
			return c.Query(ctx, "SELECT 1", func(*sql.Rows) error { return nil })
		}},
		"commit":   {recdriver.Commit, (*bounded.Conn).Commit},
		"rollback": {recdriver.Rollback, (*bounded.Conn).Rollback},
	}, func(t *testing.T, test test, d *recdriver.Driver, db *sql.DB) {
		comeBack := make(chan struct{})
		c, err := bounded.Open(t.Context(), db)
		if err == nil && test.kind != recdriver.Begin {
			err = c.Begin(t.Context(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		d.OnCall(recdriver.HangOn(test.kind, "", comeBack))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := test.call(c, ctx); !errors.Is(err, bounded.ErrNoReturn) || c.TxContext().Err() == nil {
			t.Errorf("got %v, and %v of the transaction's context; want ErrNoReturn, and its end", err, c.TxContext().Err())
		}
		asked := len(d.Calls())
		if err := exec(c, ctx); !errors.Is(err, bounded.ErrNoReturn) || !errors.Is(err, ctx.Err()) {
			t.Errorf("next call: got %v; want ErrNoReturn, and the end of the context", err)
		}
		if err := c.Release(t.Context()); !errors.Is(err, bounded.ErrNoReturn) {
			t.Errorf("Release: got %v; want ErrNoReturn", err)
		}
		if n := len(d.Calls()); n != asked {
			t.Errorf("got %s; want nothing asked of it any more", d)
		}
		if in := db.Stats().InUse; in != 1 {
			t.Errorf("got %d connections in use; want the one that is stuck", in)
		}
		close(comeBack)
		synctest.Wait()
		if got := d.String(); !strings.HasSuffix(got, "> close") {
			t.Errorf("got %s; want it closed", got)
		}
	})
}

func TestStuckOpen(t *testing.T) {
	bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		comeBack := make(chan struct{})
		d.OnCall(recdriver.HangOn(recdriver.Connect, "", comeBack))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c, err := bounded.Open(ctx, db); c != nil || !errors.Is(err, bounded.ErrNoReturn) {
			t.Errorf("got %v, %v; want ErrNoReturn", c, err)
		}
		close(comeBack)
	})
}

// With a context that goes on, clean-up has bounds of its own.
func TestStuckCleanUp(t *testing.T) {
	type test struct {
		kind recdriver.Kind
		of   func(*testing.T) context.Context
	}
	never, goesOn := func(*testing.T) context.Context { return context.Background() }, (*testing.T).Context
	each(t, map[string]test{
		"rollback, never ends": {recdriver.Rollback, never}, "rollback, goes on": {recdriver.Rollback, goesOn},
		"close, never ends": {recdriver.Close, never}, "close, goes on": {recdriver.Close, goesOn},
	}, func(t *testing.T, test test, d *recdriver.Driver, db *sql.DB) {
		ctx := test.of(t)
		comeBack := make(chan struct{})
		c := begun(t, db)
		c.Distrust()
		d.OnCall(recdriver.HangOn(test.kind, "", comeBack))
		start := time.Now()
		first := c.Rollback(ctx)
		second := c.Release(ctx)
		if took, want := time.Since(start), bounded.CleanUp+bounded.Grace; took != want {
			t.Errorf("took %v; want %v", took, want)
		}
		if rolledBack := test.kind != recdriver.Rollback; errors.Is(first, bounded.ErrNoReturn) == rolledBack || !errors.Is(second, bounded.ErrNoReturn) {
			t.Errorf("got %v, then %v; want ErrNoReturn", first, second)
		}
		close(comeBack)
		synctest.Wait()
		if got := d.String(); !strings.HasSuffix(got, "> close") {
			t.Errorf("got %s; want it closed", got)
		}
	})
}

func TestEnded(t *testing.T) {
	t.Parallel()
	cancelled := recdriver.SQLError{Code: "57014", Message: "canceling statement"}
	ended, cancel := context.WithCancelCause(context.Background())
	cancel(errBoom)
	plain, cancelPlain := context.WithCancel(context.Background())
	cancelPlain()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		err  error
		text string
		is   []error
	}{
		{"no error", ended, nil, "", nil},
		{"context goes on", context.Background(), cancelled, cancelled.Error(), []error{cancelled}},
		{"lib/pq", ended, cancelled, "context canceled: boom (" + cancelled.Error() + ")", []error{context.Canceled, errBoom, cancelled}},
		{"lib/pq, no cause", plain, cancelled, "context canceled (" + cancelled.Error() + ")", []error{context.Canceled, cancelled}},
		{"pgx", ended, context.Canceled, "context canceled: boom", []error{context.Canceled, errBoom}},
		{"pgx, no cause", plain, context.Canceled, "context canceled", []error{context.Canceled}},
		{"cause alone", ended, errBoom, "context canceled: boom", []error{context.Canceled, errBoom}},
	} {
		got := bounded.Ended(tt.ctx, tt.err)
		if got == nil || tt.err == nil {
			if got != tt.err { //nolint:errorlint // itself
				t.Errorf("%s: got %v; want %v", tt.name, got, tt.err)
			}
			continue
		}
		if got.Error() != tt.text {
			t.Errorf("%s: got %v; want %s", tt.name, got, tt.text)
		}
		for _, want := range tt.is {
			if !errors.Is(got, want) {
				t.Errorf("%s: got %v; want %v in its chain", tt.name, got, want)
			}
		}
		if again := bounded.Ended(tt.ctx, got); again != got { //nolint:errorlint // itself
			t.Errorf("%s: got %v the second time; want the same", tt.name, again)
		}
	}
}
