//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/recdriver"
)

var errShutdown = errors.New("shutting down")

// checkEnded checks that err is the end of a context, the same with every
// driver: pgx returns the context's error, lib/pq SQLSTATE 57014, neither its
// cause.
func checkEnded(t *testing.T, err error, op string, step locktrace.Step) {
	t.Helper()
	checkIs(t, err, context.Canceled)
	checkIs(t, err, errShutdown)
	checkStep(t, err, "advisorylock."+op, "42", step, "")
}

func TestContextEndedBefore(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errShutdown)
		var r locktrace.Recorder
		err := f.call(advisorylock.Locker{Trace: r.Trace()}, ctx, db, key, uncalled(t))
		checkEnded(t, err, f.op, locktrace.Connect)
		checkSame(t, "calls", d.String(), "")
		checkSame(t, "steps", r.String(), "connect!")
	})
}

// cancelDuring cancels the context of call as soon as the driver is in a call of
// that kind. It returns call's error, and how long after the cancellation it
// came.
func cancelDuring(t *testing.T, d *recdriver.Driver, kind recdriver.Kind, call func(ctx context.Context) error) (err error, took time.Duration) { //nolint:staticcheck // the error is what it is about, not its failure
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	started := d.Started(kind, "", 1)
	cancelled := make(chan time.Time, 1)
	go func() {
		<-started
		time.Sleep(100 * time.Millisecond)
		cancelled <- time.Now()
		cancel(errShutdown)
	}()
	err = call(ctx)
	select {
	case at := <-cancelled:
		return err, time.Since(at)
	default:
		t.Fatalf("came back with %v before its context ended", err)
		return nil, 0
	}
}

// On a network that goes silent lib/pq hangs in each of these calls, whatever
// its context says. The caller goes on after a short grace, its place is free
// for the next one, and the connection is finished off when the driver comes
// back.
func TestContextEndsWhileDriverHangs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		step   locktrace.Step // of the error
		kind   recdriver.Kind
		fnErr  error
		steps  string
		locked bool // on the server, until the driver comes back
	}{
		{name: "connect", step: locktrace.Connect, kind: recdriver.Connect, steps: "connect!"},
		{name: "begin", step: locktrace.Begin, kind: recdriver.Begin, steps: "connect > begin! > release!"},
		{name: "lock", step: locktrace.Lock, kind: recdriver.Exec, steps: "connect > begin > lock! > rollback! > release!"},
		{name: "commit", step: locktrace.Commit, kind: recdriver.Commit, steps: "connect > begin > lock > commit! > release!", locked: true},
		{name: "rollback", kind: recdriver.Rollback, fnErr: errors.New("boom"), steps: "connect > begin > lock > rollback! > release!", locked: true},
		{name: "release", kind: recdriver.Close, steps: "connect > begin > lock > commit > release!"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachInEveryMode(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				db.SetMaxOpenConns(2) // one for locks, one to spare
				if tt.kind == recdriver.Close {
					db.SetMaxIdleConns(-1) // each release closes the connection
				}
				comeBack := hang(d, tt.kind)
				var r locktrace.Recorder
				err, took := cancelDuring(t, d, tt.kind, func(ctx context.Context) error {
					return f.call(advisorylock.Locker{Trace: r.Trace()}, ctx, db, key, func(context.Context) error { return tt.fnErr })
				})
				checkSame(t, "time after the context", took, bounded.Grace)
				checkSame(t, "steps", r.String(), tt.steps)
				if got := d.String(); !strings.HasSuffix(got, "...") { // such as a look at who has the lock
					t.Errorf("got %s; want nothing sent on a silent network", got)
				}
				if tt.step == locktrace.Lock && !f.try && !errors.As(err, new(*advisorylock.WaitError)) {
					t.Errorf("got %v; want a WaitError", err)
				}
				switch {
				case tt.step == locktrace.Commit && f.lease:
					// Nothing but the lock was in doubt, and that is.
					checkIs(t, err, advisorylock.ErrLost, bounded.ErrNoReturn)
				case tt.step != "":
					checkEnded(t, err, f.op, tt.step)
					checkIs(t, err, bounded.ErrNoReturn)
				case !errors.Is(err, tt.fnErr):
					t.Errorf("got %v; want %v", err, tt.fnErr)
				}
				checkSame(t, "connections in use, one of which hangs", db.Stats().InUse, 1)

				d.OnCall(nil)
				placesAreFree(t, db, tt.locked)
				comeBack()
				synctest.Wait()
				closedAndNeverPooled(t, d, 1)
				if err := advisorylock.WithXactLock(t.Context(), db, key, nothing); err != nil {
					t.Errorf("after the driver came back: %v", err)
				}
			})
		})
	}
}

// placesAreFree checks that key and the one connection that locks may have on db
// are free in this process, at once. If the server still has the lock, a Try has
// to be told so by the server.
func placesAreFree(t *testing.T, db *sql.DB, lockedOnServer bool) {
	t.Helper()
	begun := time.Now()
	if err := advisorylock.TryWithXactLock(t.Context(), db, key+1, nothing); err != nil {
		t.Errorf("another key: %v", err)
	}
	var r locktrace.Recorder
	err := advisorylock.Locker{Trace: r.Trace()}.TryWithXactLock(t.Context(), db, key, nothing)
	want := "connect > begin > lock > commit > release"
	if lockedOnServer {
		want = "connect > begin > lock! > rollback > release"
	}
	if got := r.String(); got != want || lockedOnServer != errors.Is(err, advisorylock.ErrNotAcquired) {
		t.Errorf("the same key: got %s, %v; want %s", got, err, want)
	}
	checkSame(t, "time taken", time.Since(begun), 0)
}

// closedAndNeverPooled checks what became of a connection that hung.
func closedAndNeverPooled(t *testing.T, d *recdriver.Driver, conn int) {
	t.Helper()
	var last recdriver.Kind
	for _, c := range d.Calls() {
		if c.Conn != conn {
			continue
		}
		if c.Kind == recdriver.Take {
			t.Errorf("connection %d was taken from the pool again", conn)
		}
		last = c.Kind
	}
	if last != recdriver.Close {
		t.Errorf("the last call on connection %d was %q; want close", conn, last)
	}
}

// A deadline works like a cancellation, and its cause can be told, too.
func TestDeadlineWhileWaiting(t *testing.T) {
	t.Parallel()
	eachInEveryMode(t, waiters, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		free := lockElsewhere(t, d, key)
		for _, limit := range []time.Duration{200 * time.Millisecond, 2500 * time.Millisecond} { // in the first burst, in a later one
			ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errShutdown)
			var r locktrace.Recorder
			begun := time.Now()
			err := f.call(advisorylock.Locker{Trace: r.Trace()}, ctx, db, key, noFn)
			cancel()
			checkSame(t, "time taken", time.Since(begun), limit)
			checkIs(t, err, context.DeadlineExceeded, errShutdown)
			checkStep(t, err, "advisorylock."+f.op, "42", locktrace.Lock, "")
			var wait *advisorylock.WaitError
			if !errors.As(err, &wait) || wait.Key != key || wait.Waited != limit {
				t.Errorf("got %+v; want a WaitError for key %d after %v", wait, key, limit)
			}
			checkSame(t, "steps", r.String(), "connect > begin > lock! > rollback > release")
			checkSame(t, "sessions that still wait", d.Server().Waiting()[int64(key)], 0)
		}
		free()
		checkSame(t, "locks on the server", len(d.Server().Held()), 0)
	})
}

// The lock may be granted at the very moment at which the wait is over. It must
// not be kept then, and the connection, to which a cancellation may be under
// way, must not be used by anybody else.
func TestGrantAtTheMomentOfCancellation(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		ctx, cancel := context.WithCancelCause(t.Context())
		d.OnCall(answerLate(recdriver.Exec, func(context.Context, int) { cancel(errShutdown) }))
		err := f.call(advisorylock.Locker{}, ctx, db, key, uncalled(t))
		checkEnded(t, err, f.op, locktrace.Lock)
		synctest.Wait()
		closedAndNeverPooled(t, d, 1)
	})
}

// A COMMIT that is under way cannot be called back. If it succeeds, it
// succeeded.
func TestContextEndsDuringCommitThatSucceeds(t *testing.T) {
	t.Parallel()
	each(t, forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		d.OnCall(recdriver.DelayOn(recdriver.Commit, "", bounded.Grace/2))
		err, _ := cancelDuring(t, d, recdriver.Commit, func(ctx context.Context) error {
			return f.call(advisorylock.Locker{}, ctx, db, key, noFn)
		})
		if err != nil {
			t.Errorf("got %v; want nil", err)
		}
	})
}

// With a context that never ends, the end of a transaction or connection that hangs has
// bounds of its own. So has the commit of a lease: nothing was written, and only the lock
// is in doubt.
func TestCleanUpIsBounded(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, tt := range []struct {
		kind  recdriver.Kind
		forms []form
		fnErr error
		want  error
	}{
		{recdriver.Rollback, forms, boom, boom},
		{recdriver.Close, forms, boom, boom},
		{recdriver.Commit, leases, nil, advisorylock.ErrLost},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			t.Parallel()
			each(t, tt.forms, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				db.SetMaxIdleConns(-1) // each release closes the connection
				comeBack := hang(d, tt.kind)
				begun := time.Now()
				err := f.call(advisorylock.Locker{}, context.Background(), db, key, func(context.Context) error { return tt.fnErr })
				if took := time.Since(begun); took > 2*advisorylock.EndTime {
					t.Errorf("took %v; want a few seconds", took)
				}
				checkIs(t, err, tt.want)
				if tt.fnErr != nil && err != tt.fnErr { //nolint:errorlint // untouched
					t.Errorf("got %v; want %v, untouched", err, tt.fnErr)
				}
				comeBack()
				synctest.Wait()
				closedAndNeverPooled(t, d, 1)
			})
		})
	}
}

// hang makes all calls of a kind hang, whatever their context says, until
// comeBack is called, or for an hour, so that who waits for ever can be told
// from a test that does. A connection is there then, when nobody waits for it any more.
func hang(d *recdriver.Driver, kind recdriver.Kind) (comeBack func()) {
	silence := make(chan struct{})
	once := sync.OnceFunc(func() { close(silence) })
	hour := time.AfterFunc(time.Hour, once)
	if kind == recdriver.Connect {
		d.OnCall(answerLate(kind, func(context.Context, int) { <-silence }))
	} else {
		d.OnCall(recdriver.HangOn(kind, "", silence))
	}
	return func() {
		hour.Stop()
		once()
	}
}

// answerLate is a hook that makes the server do at once what a call of that kind asks,
// and answer when wait returns.
func answerLate(kind recdriver.Kind, wait func(ctx context.Context, conn int)) func(context.Context, *recdriver.Call) error {
	return func(ctx context.Context, c *recdriver.Call) error {
		if c.Kind != kind {
			return nil
		}
		return recdriver.Later(func() { wait(ctx, c.Conn) })
	}
}
