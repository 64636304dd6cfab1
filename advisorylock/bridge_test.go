//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/bridge"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// What package schemaguard asks for beyond the public functions.

// holdCall is a call of bridge.Hold, and the recorder of its steps.
func holdCall(db *sql.DB) (bridge.Call, *locktrace.Recorder) {
	r := new(locktrace.Recorder)
	return bridge.Call{Op: "op", DB: db, Key: int64(key), Name: "app", Trace: r.Trace()}, r
}

// A waiter asks whether there is anything left to do whenever it finds the lock free. One
// that has not waited asks for itself, under the lock.
func TestDone(t *testing.T) {
	t.Parallel()
	final, passing := recdriver.SQLError{Code: "42501", Message: "the schema is newer"}, driver.ErrBadConn
	type reply struct {
		done bool
		err  error
	}
	for name, tt := range map[string]struct {
		replies []reply
		err     error
		runs    int
		steps   string
	}{
		"no wait":        {runs: 1, steps: "connect > begin > lock > commit > release"},
		"done":           {replies: []reply{{done: true}}, steps: "connect > begin > lock > rollback > release"},
		"not done":       {replies: []reply{{}}, runs: 1, steps: "connect > begin > lock > commit > release"},
		"final error":    {replies: []reply{{err: final}}, err: final, steps: "connect > begin > lock! > rollback > release"},
		"passing errors": {replies: []reply{{err: passing}, {err: passing}, {done: true}}, steps: "connect > begin > lock > rollback > release"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				db.SetMaxOpenConns(2)
				const freed = 5 * time.Second
				if len(tt.replies) > 0 {
					time.AfterFunc(freed, lockElsewhere(t, d, key))
				}
				begun := time.Now()
				c, r := holdCall(db)
				asked, ran := 0, 0
				c.Done = func(ctx context.Context) (bool, error) {
					if took := time.Since(begun); took < freed || took > freed+time.Second {
						t.Errorf("asked after %v; want it soon after the lock is free", took)
					}
					if n := d.Server().Held()[int64(key)]; n != 0 || db.Stats().InUse != 0 {
						t.Errorf("asked with %d locks and %d connections; want none", n, db.Stats().InUse)
					}
					if asked++; asked > len(tt.replies) {
						t.Error("asked once more")
						return true, nil
					}
					return tt.replies[asked-1].done, tt.replies[asked-1].err
				}
				err := bridge.Hold(t.Context(), c, func(context.Context) error { ran++; return nil })
				if !errors.Is(err, tt.err) || ran != tt.runs || asked != len(tt.replies) {
					t.Errorf("got %v, run %d times, asked %d times; want %v, %d, %d", err, ran, asked, tt.err, tt.runs, len(tt.replies))
				}
				if tt.err != nil {
					checkStep(t, err, "op", "app", locktrace.Lock, "")
				}
				checkSame(t, "steps", r.String(), tt.steps)
			})
		})
	}
}

// The record is committed together with the end of the lock, if the work was done
// and the lease alive to the end.
func TestRecord(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, tt := range map[string]struct {
		fn    func(d *recdriver.Driver, cancel context.CancelFunc) error
		want  error // in the chain
		steps string
		calls string
	}{
		"done": {
			fn:    func(*recdriver.Driver, context.CancelFunc) error { return nil },
			steps: "connect > begin > lock > record > commit > release", calls: "connect > begin > exec > exec > commit > release",
		},
		"error": {
			fn: func(*recdriver.Driver, context.CancelFunc) error { return boom }, want: boom,
			steps: "connect > begin > lock > rollback > release", calls: "connect > begin > exec > rollback > release",
		},
		"panic": {
			fn:    func(*recdriver.Driver, context.CancelFunc) error { panic(boom) },
			steps: "connect > begin > lock > rollback > release", calls: "connect > begin > exec > rollback > release",
		},
		"Goexit": {
			fn:    func(*recdriver.Driver, context.CancelFunc) error { runtime.Goexit(); return nil },
			steps: "connect > begin > lock > rollback > release", calls: "connect > begin > exec > rollback > release",
		},
		"lost": {
			fn: func(d *recdriver.Driver, _ context.CancelFunc) error {
				d.Server().Kill(int64(key))
				time.Sleep(2 * time.Second)
				return nil
			},
			want: advisorylock.ErrLost, steps: "connect > begin > lock > rollback > release",
		},
		"end of the context": {
			fn: func(_ *recdriver.Driver, cancel context.CancelFunc) error { cancel(); return nil }, want: context.Canceled,
			steps: "connect > begin > lock > record! > rollback > release", calls: "connect > begin > exec > rollback > release",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var committed []string
				d.Server().OnCommit(func(statements []string) { committed = append(committed, statements...) })
				c, r := holdCall(db)
				c.Record = func(ctx context.Context, exec bridge.Exec) error {
					n, err := exec(ctx, "INSERT INTO t")
					if err == nil && n != 1 {
						t.Errorf("got %d rows; want 1", n)
					}
					return err
				}
				got := run(func() error {
					return bridge.Hold(ctx, c, func(context.Context) error { return tt.fn(d, cancel) })
				})
				if !errors.Is(got.err, tt.want) {
					t.Errorf("got %+v; want %v", got, tt.want)
				}
				want := []string(nil)
				if name == "done" {
					want = []string{"INSERT INTO t"}
				}
				if !slices.Equal(committed, want) {
					t.Errorf("committed %q; want %q", committed, want)
				}
				if r.String() != tt.steps {
					t.Errorf("got steps %s; want %s", r, tt.steps)
				}
				if tt.calls != "" && d.String() != tt.calls {
					t.Errorf("got calls %s; want %s", d, tt.calls)
				}
			})
		})
	}
}

// A record that fails, or hangs, leaves nothing.
func TestRecordFails(t *testing.T) {
	t.Parallel()
	full := recdriver.SQLError{Code: "53100", Message: "disk full"}
	for name, tt := range map[string]struct {
		hook func(ctx context.Context, d *recdriver.Driver) error
		want error
		most time.Duration
	}{
		"error":               {func(context.Context, *recdriver.Driver) error { return full }, full, 0},
		"hangs":               {func(ctx context.Context, _ *recdriver.Driver) error { <-ctx.Done(); return ctx.Err() }, context.DeadlineExceeded, advisorylock.EndTime},
		"the session is gone": {func(_ context.Context, d *recdriver.Driver) error { d.Kill(1); return nil }, advisorylock.ErrLost, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				d.OnCall(func(ctx context.Context, c *recdriver.Call) error {
					if c.Kind == recdriver.Exec && strings.HasPrefix(c.Query, "INSERT") {
						return tt.hook(ctx, d)
					}
					return nil
				})
				c, r := holdCall(db)
				c.Record = func(ctx context.Context, exec bridge.Exec) error {
					_, err := exec(ctx, "INSERT INTO t")
					return err
				}
				begun := time.Now()
				err := bridge.Hold(t.Context(), c, noFn)
				if took := time.Since(begun); took > tt.most+bounded.Grace || !errors.Is(err, tt.want) {
					t.Errorf("got %v after %v; want %v after %v", err, took, tt.want, tt.most)
				}
				if tt.want != advisorylock.ErrLost { //nolint:errorlint // itself
					checkStep(t, err, "op", "app", locktrace.Record, "")
				}
				checkSame(t, "steps", r.String(), "connect > begin > lock > record! > rollback > release")
			})
		})
	}
}

// errFull is how a server refuses a connection.
var errFull = recdriver.SQLError{Code: "53300", Message: "sorry, too many clients already"}

// workPool is a pool for the work under a lease, on the same server, to which until
// then there is no connection.
func workPool(t *testing.T, d *recdriver.Driver, until time.Duration, refuse func(ctx context.Context) error) (*recdriver.Driver, *sql.DB) {
	t.Helper()
	begun := time.Now()
	work := d.Server().Driver(recdriver.Plain)
	work.OnCall(func(ctx context.Context, c *recdriver.Call) error {
		if c.Kind == recdriver.Connect && time.Since(begun) < until {
			return refuse(ctx)
		}
		return nil
	})
	db := work.OpenDB()
	t.Cleanup(func() { db.Close() })
	return work, db
}

// Leases of many locks fill what their own work needs. A holder that gets no
// connection for its work lets go.
func TestHolderWithoutAConnectionForItsWork(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(ctx context.Context) error{
		"refused": func(context.Context) error { return errFull },
		"hangs":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				const until = 10 * time.Second
				work, pool := workPool(t, d, until, refuse)
				begun := time.Now()
				others := make(chan time.Duration, 1)
				go func() { // another process, with enough connections
					if err := advisorylock.Hold(t.Context(), elsewhere(t, d), key, noFn); err != nil {
						t.Error(err)
					}
					others <- time.Since(begun)
				}()
				c, r := holdCall(db)
				c.Work = pool
				var entered time.Duration
				err := bridge.Hold(t.Context(), c, func(context.Context) error { entered = time.Since(begun); return nil })
				if err != nil || entered < until || entered > until+5*time.Second { // an attempt of a second, a pause of four
					t.Errorf("got %v, entered after %v; want it soon after there are connections", err, entered)
				}
				if got := <-others; got > until/2 {
					t.Errorf("the other process had the lock after %v; want it meanwhile", got)
				}
				checkSame(t, "steps", r.String(), "connect > begin > lock > commit > release")
				if w := r.Waits(); len(w) == 0 || w[0].Err == nil || !strings.Contains(w[0].Err.Error(), "no connection for the work") {
					t.Errorf("got %+v; want the reason", w)
				}
				if got := work.String(); !strings.HasSuffix(got, "connect > exec > release") {
					t.Errorf("got %s on the other pool; want one statement", got)
				}
			})
		})
	}
}

func TestNoConnectionForTheWorkUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		_, pool := workPool(t, d, time.Hour, func(context.Context) error { return errFull })
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errShutdown)
		defer cancel()
		c, r := holdCall(db)
		c.Work = pool
		begun := time.Now()
		err := bridge.Hold(ctx, c, uncalled(t))
		if took := time.Since(begun); took != 10*time.Second || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errShutdown) {
			t.Errorf("got %v after %v; want the end of the context after ten seconds", err, took)
		}
		if !errors.Is(err, errFull) || !errors.As(err, new(*advisorylock.WaitError)) || !strings.Contains(err.Error(), "no connection for the work") {
			t.Errorf("got %v; want a WaitError with the reason", err)
		}
		checkSame(t, "steps", r.String(), "connect > begin > lock! > rollback > release")
	})
}

// Any other error the work will see for itself.
func TestWorkThatFailsOtherwise(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		_, pool := workPool(t, d, time.Hour, func(context.Context) error { return recdriver.SQLError{Code: "28P01", Message: "no such role"} })
		c, _ := holdCall(db)
		c.Work = pool
		begun := time.Now()
		entered := time.Duration(-1)
		if err := bridge.Hold(t.Context(), c, func(context.Context) error { entered = time.Since(begun); return nil }); err != nil || entered != 0 {
			t.Errorf("got %v, entered after %v; want the lock at once", err, entered)
		}
	})
}

// The connections that the work needs may be those that the waiters keep, where they
// cannot count any, as behind a pooler.
func TestWaitersLeaveAHolderInNeed(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		d.Server().SetPooled(true)
		full := recdriver.SQLError{Code: "08P01", Message: "no more connections allowed (max_client_conn)"}
		_, pool := workPool(t, d, 700*time.Millisecond, func(context.Context) error { return full })
		c, _ := holdCall(elsewhere(t, d))
		c.Work = pool
		// Another holder is in need, or a waiter polls at that moment.
		free := lockElsewhere(t, d, advisorylock.KeyOf("bootlock/need"))
		time.AfterFunc(300*time.Millisecond, free)
		held, ended := make(chan struct{}), make(chan error)
		go func() {
			ended <- bridge.Hold(t.Context(), c, func(context.Context) error {
				close(held)
				time.Sleep(10 * time.Second)
				return nil
			})
		}()
		synctest.Wait()
		stands := sample(t, d, db, time.Second, 9*time.Second)
		if err := advisorylock.Hold(t.Context(), db, key, noFn); err != nil {
			t.Error(err)
		}
		<-held
		if err := <-ended; err != nil {
			t.Error(err)
		}
		checkSame(t, "what it has between two polls", stands(), seen{})
	})
}
