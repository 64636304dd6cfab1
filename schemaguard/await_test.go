//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

var migrateApp = schemaguard.MigrateKey(schemaguard.KeyFor("app"))

// newAwaiter returns a process whose server shows who has the lock of migrate.
func newAwaiter(t *testing.T, server *recdriver.Server, mode recdriver.Mode) *fixture {
	t.Helper()
	f := newProcess(t, server.Driver(mode))
	f.OnQuery(func(recdriver.Call) ([]string, [][]driver.Value, error) {
		columns := []string{"pid", "application", "user", "client", "state", "since", "query", "granted", "shared", "this key"}
		if server.Held()[int64(migrateApp)] == 0 {
			return columns, nil, nil
		}
		return columns, [][]driver.Value{{int64(4711), "deploy", "app", "local", "idle in transaction", 0.0, "", true, false, true}}, nil
	})
	return f
}

func (f *fixture) await(ctx context.Context, upToDate func(context.Context, *sql.DB) (bool, error)) error {
	return schemaguard.Guard{UpToDate: upToDate, Trace: f.rec.Trace()}.Await(ctx, f.db, "app")
}

// answers returns an UpToDate that answers like this, and true from then on.
func answers(list ...bool) func(context.Context, *sql.DB) (bool, error) {
	return func(context.Context, *sql.DB) (bool, error) {
		if len(list) == 0 {
			return true, nil
		}
		answer := list[0]
		list = list[1:]
		return answer, nil
	}
}

func TestAwaitUpToDateAlready(t *testing.T) {
	t.Parallel()
	f := newAwaiter(t, recdriver.NewServer(), recdriver.Plain)
	if err := f.await(t.Context(), answers()); err != nil {
		t.Fatal(err)
	}
	if n := len(f.Calls()); n != 0 {
		t.Errorf("got %s; want nothing", f)
	}
	f.wantOrder(t, "up to date")
}

// While nobody migrates it asks again from time to time, and all it sends is the
// look at who has the lock: no DDL, and no lock, which would keep those who try
// for it from migrating.
func TestAwaitNobodyMigrates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newAwaiter(t, recdriver.NewServer(), recdriver.Plain)
		ready, asked := time.Now().Add(time.Minute), 0
		err := f.await(t.Context(), func(context.Context, *sql.DB) (bool, error) {
			asked++
			return !time.Now().Before(ready), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if late := time.Since(ready); late > time.Second || asked < 60 || asked > 200 {
			t.Errorf("went on %v late and asked %d times; want a second at most, and 60 to 200 times", late, asked)
		}
		for _, text := range f.sent() {
			if text != "BEGIN" && text != "ROLLBACK" && !strings.HasPrefix(text, "QUERY /* ") {
				t.Errorf("sent %s", text)
			}
		}
		f.wantOrder(t, "up to date > await")
	})
}

// A table or schema that is not there yet is what a worker that comes first
// finds; any other error ends the wait.
func TestAwaitErrors(t *testing.T) {
	t.Parallel()
	boom := errors.New("the schema is newer than this build")
	for name, test := range map[string]struct {
		errs  []error
		order string
	}{
		"at the start": {[]error{boom}, "up to date!"},
		"later":        {[]error{recdriver.SQLError{Code: "42P01"}, recdriver.SQLError{Code: "3F000"}, boom}, "up to date > await!"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newAwaiter(t, recdriver.NewServer(), recdriver.Plain)
				err := f.await(t.Context(), func(context.Context, *sql.DB) (bool, error) {
					err := test.errs[0]
					test.errs = test.errs[1:]
					return true, err
				})
				if want := "schemaguard.Await app: up to date: " + boom.Error(); err == nil || err.Error() != want || !errors.Is(err, boom) {
					t.Errorf("got %v; want %s", err, want)
				}
				f.wantOrder(t, test.order)
			})
		})
	}
}

// A worker that waits has nothing to lose by a session that ends, or by a server
// that has no connection for it.
func TestAwaitOutlivesItsSession(t *testing.T) {
	t.Parallel()
	for name, hook := range map[string]func(context.Context, *recdriver.Call) error{
		"session ends":  recdriver.FailOn(recdriver.Query, "", 1, driver.ErrBadConn),
		"no connection": recdriver.FailOn(recdriver.Connect, "", 1, recdriver.SQLError{Code: "53300", Message: "sorry, too many clients already"}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newAwaiter(t, recdriver.NewServer(), recdriver.Plain)
				f.OnCall(hook)
				if err := f.await(t.Context(), answers(false, false, false)); err != nil {
					t.Errorf("got %v; want it to ask on", err)
				}
			})
		})
	}
}

// All who wait behind a process that migrates go on at the moment it is done, on
// pools of one connection.
func TestAwaitGoesOnTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		server := recdriver.NewServer()
		winner := newProcess(t, server.Driver(recdriver.Plain))
		winner.db.SetMaxOpenConns(2)
		var done atomic.Bool
		upToDate := func(context.Context, *sql.DB) (bool, error) { return done.Load(), nil }

		migrating, ended := make(chan struct{}), make(chan time.Time, n)
		var all []*fixture
		for i := range n {
			mode := []recdriver.Mode{recdriver.Plain, recdriver.PGX, recdriver.LibPQ}[i%3]
			f := newAwaiter(t, server, mode)
			all = append(all, f)
			go func() {
				<-migrating
				if err := f.await(t.Context(), upToDate); err != nil {
					t.Error(err)
				}
				ended <- time.Now()
			}()
		}
		var finished time.Time
		err := winner.ensureWith(t.Context(), schemaguard.Guard{UpToDate: upToDate}, func(context.Context, *sql.DB) error {
			close(migrating)
			time.Sleep(10*time.Second + 50*time.Millisecond)
			done.Store(true)
			finished = time.Now()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			// Those that a crowd keeps from blocking ask once a second.
			if late := (<-ended).Sub(finished); late > 1100*time.Millisecond {
				t.Errorf("went on %v late", late)
			}
		}
		for _, f := range all {
			sent := strings.Join(f.sent(), "\n")
			if !strings.Contains(sent, "advisory_xact_lock_shared(") || strings.Contains(sent, "advisory_xact_lock(") {
				t.Errorf("sent %s; want the lock in shared mode alone", sent)
			}
		}
	})
}

// An error says what it waited for: a process that migrates, or that none does.
func TestAwaitContextEnds(t *testing.T) {
	t.Parallel()
	never := func(context.Context, *sql.DB) (bool, error) { return false, nil }
	for name, want := range map[string][]string{
		"nobody migrates": {"schemaguard.Await app: await: context deadline exceeded", "UpToDate is still false after 5s, and nobody migrates"},
		"somebody does":   {"schemaguard.Await app: lock: context deadline exceeded", "; held by pid 4711 (deploy, user app, from local, idle in transaction); to end it: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newAwaiter(t, recdriver.NewServer(), recdriver.Plain)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				var err error
				if name == "nobody migrates" {
					err = f.await(ctx, never)
				} else {
					other := newProcess(t, f.Server().Driver(recdriver.Plain))
					_ = advisorylock.WithXactLock(t.Context(), other.db, migrateApp, func(context.Context, *sql.Tx) error {
						err = f.await(ctx, never)
						return nil
					})
				}
				for _, text := range want {
					if err == nil || !strings.Contains(err.Error(), text) || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v; want %q in it", err, text)
					}
				}
				f.wantOrder(t, "up to date > await!")
			})
		})
	}
}

// A worker whose fleet never migrates must not wait without a word.
func TestAwaitTellsOfItsWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newAwaiter(t, recdriver.NewServer(), recdriver.Plain)
		other := newProcess(t, f.Server().Driver(recdriver.Plain))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			time.Sleep(15 * time.Second)
			_ = advisorylock.WithXactLock(ctx, other.db, migrateApp, func(ctx context.Context, _ *sql.Tx) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		_ = f.await(ctx, func(context.Context, *sql.DB) (bool, error) { return false, nil })
		<-ended
		var at []time.Duration
		for _, w := range f.rec.Waits() {
			at = append(at, w.Waited.Truncate(2*time.Second))
			if w.Name != "app" || w.For != locktrace.Migrate || w.Key != int64(migrateApp) {
				t.Errorf("got %+v; want it to tell of migrate's lock", w)
			}
			if known := len(w.Holders) == 1; known != (w.Waited > 15*time.Second) {
				t.Errorf("after %v got holders %v", w.Waited, w.Holders)
			}
		}
		if len(at) < 3 || at[0] > 2*time.Second || !slices.IsSorted(at) {
			t.Errorf("told after %v; want after about a second, and every ten seconds", at)
		}
	})
}

func TestAwaitArguments(t *testing.T) {
	t.Parallel()
	f := newAwaiter(t, recdriver.NewServer(), recdriver.Plain)
	guard := schemaguard.Guard{UpToDate: answers()}
	for want, call := range map[string]func(){
		"schemaguard.Await: nil Guard.UpToDate": func() { _ = schemaguard.Guard{}.Await(t.Context(), f.db, "app") },
		"schemaguard.Await: nil context":        func() { _ = guard.Await(nil, f.db, "app") }, //nolint:staticcheck // on purpose
		"schemaguard.Await: nil *sql.DB":        func() { _ = guard.Await(t.Context(), nil, "app") },
	} {
		if got := recovered(call); got != want {
			t.Errorf("got panic %v; want %q", got, want)
		}
	}
	if err := guard.Await(t.Context(), f.db, "pg_app"); err == nil || !strings.HasPrefix(err.Error(), `schemaguard.Await "pg_app": `) {
		t.Errorf("got %v; want the name refused", err)
	}
}
