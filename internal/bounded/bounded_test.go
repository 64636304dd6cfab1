//go:build go1.25

package bounded_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
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

// bubble runs test in a synctest bubble, which fails if a goroutine outlives it,
// and checks that no connection does.
func bubble(t *testing.T, test func(t *testing.T, d *recdriver.Driver, db *sql.DB)) {
	t.Helper()
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
	t.Parallel()
	for _, tt := range []struct {
		name string
		late time.Duration // after the end of the context
		want error
	}{
		{"at once", 0, errBoom},
		{"within the grace", bounded.Grace - 1, errBoom},
		{"too late", bounded.Grace + 1, bounded.ErrNoReturn},
		{"much too late", time.Hour, bounded.ErrNoReturn},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errCause)
				defer cancel()
				start := time.Now()
				err := bounded.Do(ctx, func() error {
					time.Sleep(time.Minute + tt.late)
					return errBoom
				})
				if !errors.Is(err, tt.want) || tt.late > 0 && !errors.Is(err, errCause) {
					t.Errorf("got %v; want %v, and why the context ended", err, tt.want)
				}
				if took, want := time.Since(start), time.Minute+min(tt.late, bounded.Grace); took != want {
					t.Errorf("took %v; want %v", took, want)
				}
				time.Sleep(time.Hour) // the call comes back to nobody
			})
		})
	}
}

// Whatever waits runs the hooks, on its own goroutine and with its own context: also
// in a call whose context never ends.
func TestHooks(t *testing.T) {
	t.Parallel()
	type key struct{}
	ctx := context.WithValue(context.Background(), key{}, "caller")
	for name, wait := range map[string]func(ctx context.Context, c *bounded.Conn, until <-chan struct{}) error{
		"Until": func(ctx context.Context, _ *bounded.Conn, until <-chan struct{}) error {
			_, _ = bounded.Until(ctx, until)
			return nil
		},
		"Do": func(ctx context.Context, _ *bounded.Conn, until <-chan struct{}) error {
			return bounded.Do(ctx, func() error { <-until; return nil })
		},
		"Exec": func(ctx context.Context, c *bounded.Conn, _ <-chan struct{}) error {
			_, err := c.Exec(ctx, "SELECT 1")
			return err
		},
	} {
		bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
			c := begun(t, db)
			hooks, told := make(chan func(context.Context), 1), make(chan struct{})
			d.OnCall(recdriver.HangOn(recdriver.Exec, "", told))
			var at, from any
			hooks <- func(ctx context.Context) {
				at, from = goroutine(), ctx.Value(key{})
				close(told)
			}
			if err := wait(bounded.WithHooks(ctx, hooks), c, told); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if want := goroutine(); at != want || from != "caller" {
				t.Errorf("%s: the hook ran on goroutine %v, from %v; want %s, from the caller", name, at, from, want)
			}
			_ = c.Release(t.Context())
		})
	}
	var at string
	none := bounded.WithHooks(bounded.WithHooks(ctx, make(chan func(context.Context))), nil)
	if _ = bounded.Do(none, func() error { at = goroutine(); return nil }); at != goroutine() {
		t.Error("without hooks or an end of its context, the call has a goroutine of its own")
	}
}

func goroutine() string {
	stack := make([]byte, 64)
	return strings.Fields(string(stack[:runtime.Stack(stack, false)]))[1]
}

func TestDoGoexit(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, _ *recdriver.Driver, db *sql.DB) {
		err := bounded.Do(t.Context(), func() error { runtime.Goexit(); return nil })
		if err == nil || !strings.Contains(err.Error(), "ended its goroutine") {
			t.Errorf("got %v; want an error that says so", err)
		}
	})
}

func TestUserEndsTheTransaction(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
	bubble(t, func(t *testing.T, d *recdriver.Driver, _ *sql.DB) {
		ctx, cancel := context.WithCancelCause(t.Context())
		db := sql.OpenDB(connector{d, func(c driverConn) driver.Conn { return lateConn{c, func() { cancel(errBoom) }} }})
		defer db.Close()
		c, err := bounded.Open(ctx, db)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Begin(ctx, nil); !errors.Is(err, errBoom) && !errors.Is(err, context.Canceled) {
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

// connector puts something between database/sql and each connection.
type connector struct {
	driver.Connector
	between func(driverConn) driver.Conn
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.between(conn.(driverConn)), nil
}

type driverConn interface {
	driver.Conn
	driver.ConnBeginTx
}

// lateConn calls afterBegin after each BEGIN that succeeded, before anybody hears of
// it.
type lateConn struct {
	driverConn
	afterBegin func()
}

func (c lateConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.driverConn.BeginTx(ctx, opts)
	if err == nil {
		c.afterBegin()
	}
	return tx, err
}

// Once a call has not come back, nothing more is asked of the connection, and it
// is closed when the driver lets go of it.
func TestStuckConnection(t *testing.T) {
	t.Parallel()
	for kind, call := range map[recdriver.Kind]func(ctx context.Context, c *bounded.Conn) error{
		recdriver.Begin: func(ctx context.Context, c *bounded.Conn) error { return c.Begin(ctx, nil) },
		recdriver.Exec:  func(ctx context.Context, c *bounded.Conn) error { _, err := c.Exec(ctx, "SELECT 1"); return err },
		recdriver.Query: func(ctx context.Context, c *bounded.Conn) error {
			return c.Query(ctx, "SELECT 1", func(*sql.Rows) error { return nil })
		},
		recdriver.Commit:   func(ctx context.Context, c *bounded.Conn) error { return c.Commit(ctx) },
		recdriver.Rollback: func(ctx context.Context, c *bounded.Conn) error { return c.Rollback(ctx) },
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				comeBack := make(chan struct{})
				c, err := bounded.Open(t.Context(), db)
				if err == nil && kind != recdriver.Begin {
					err = c.Begin(t.Context(), nil)
				}
				if err != nil {
					t.Fatal(err)
				}
				d.OnCall(recdriver.HangOn(kind, "", comeBack))
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := call(ctx, c); !errors.Is(err, bounded.ErrNoReturn) {
					t.Errorf("got %v; want ErrNoReturn", err)
				}
				asked := len(d.Calls())
				if _, err := c.Exec(ctx, "SELECT 1"); !errors.Is(err, bounded.ErrNoReturn) || !errors.Is(err, ctx.Err()) {
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
		})
	}
}

func TestStuckOpen(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	for _, kind := range []recdriver.Kind{recdriver.Rollback, recdriver.Close} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			for name, of := range map[string]func(*testing.T) context.Context{
				"never ends": func(*testing.T) context.Context { return context.Background() },
				"goes on":    (*testing.T).Context,
			} {
				bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
					ctx := of(t)
					comeBack := make(chan struct{})
					c := begun(t, db)
					c.Distrust()
					d.OnCall(recdriver.HangOn(kind, "", comeBack))
					start := time.Now()
					first := c.Rollback(ctx)
					second := c.Release(ctx)
					if took, want := time.Since(start), bounded.CleanUp+bounded.Grace; took != want {
						t.Errorf("context %s: took %v; want %v", name, took, want)
					}
					if rolledBack := kind != recdriver.Rollback; errors.Is(first, bounded.ErrNoReturn) == rolledBack || !errors.Is(second, bounded.ErrNoReturn) {
						t.Errorf("context %s: got %v, then %v; want ErrNoReturn", name, first, second)
					}
					close(comeBack)
					synctest.Wait()
					if got := d.String(); !strings.HasSuffix(got, "> close") {
						t.Errorf("context %s: got %s; want it closed", name, got)
					}
				})
			}
		})
	}
}

// A driver that heeds its context gives the statement up with the transaction.
func TestAbandonEndsTheTransactionContext(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		c := begun(t, db)
		d.OnCall(recdriver.BlockOn(recdriver.Exec, "", nil))
		started := d.Started(recdriver.Exec, "", 1)
		p := c.Start("SELECT 1")
		<-started
		c.Abandon(p)
		if c.TxContext().Err() == nil {
			t.Error("the context of the transaction goes on")
		}
		if err := c.Release(t.Context()); !errors.Is(err, bounded.ErrNoReturn) {
			t.Errorf("got %v; want ErrNoReturn", err)
		}
		synctest.Wait()
		if got := d.String(); !strings.HasSuffix(got, "close") {
			t.Errorf("got %s; want it closed", got)
		}
	})
}

// COMMIT and ROLLBACK get no context other than that of BEGIN: one that waits for
// it to end comes back once the connection is given up.
func TestEndingATransactionThatHangs(t *testing.T) {
	t.Parallel()
	for kind, end := range map[recdriver.Kind]func(*bounded.Conn, context.Context) error{
		recdriver.Commit:   (*bounded.Conn).Commit,
		recdriver.Rollback: (*bounded.Conn).Rollback,
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				c := begun(t, db)
				tx := c.TxContext()
				d.OnCall(func(_ context.Context, call *recdriver.Call) error {
					if call.Kind != kind {
						return nil
					}
					<-tx.Done()
					return tx.Err()
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				err := end(c, ctx)
				if took := time.Since(start); !errors.Is(err, bounded.ErrNoReturn) || took != time.Second+bounded.Grace {
					t.Errorf("got %v after %v; want ErrNoReturn after %v", err, took, time.Second+bounded.Grace)
				}
				if err := c.Release(t.Context()); !errors.Is(err, bounded.ErrNoReturn) {
					t.Errorf("Release: got %v; want ErrNoReturn", err)
				}
				synctest.Wait()
				if !strings.HasSuffix(d.String(), "close") {
					t.Errorf("got %s; want it closed", d)
				}
			})
		})
	}
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
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := bounded.Ended(tt.ctx, tt.err)
			if got == nil {
				if tt.err != nil {
					t.Errorf("got nil; want %s", tt.text)
				}
				return
			}
			if got.Error() != tt.text {
				t.Errorf("got %v; want %s", got, tt.text)
			}
			for _, want := range tt.is {
				if !errors.Is(got, want) {
					t.Errorf("got %v; want %v in its chain", got, want)
				}
			}
			if again := bounded.Ended(tt.ctx, got); again != got { //nolint:errorlint // itself
				t.Errorf("got %v the second time; want the same", again)
			}
		})
	}
}
