//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/recdriver"
)

const ttl = 30 * time.Second

// onBeat is a hook for heartbeats: the nth and those after it.
func onBeat(n int, do func() error) func(context.Context, *recdriver.Call) error {
	seen := 0
	return func(_ context.Context, c *recdriver.Call) error {
		if !isBeat(*c) {
			return nil
		}
		if seen++; seen < n {
			return nil
		}
		return do()
	}
}

// isBeat reports whether c is a heartbeat.
func isBeat(c recdriver.Call) bool {
	return c.Query == "SELECT 1" || strings.HasPrefix(c.Query, "SELECT /* bootlock: ") && strings.HasSuffix(c.Query, " */ 1")
}

// beats returns when heartbeats were sent, counted from begun.
func beats(d *recdriver.Driver, begun time.Time) []time.Duration {
	var at []time.Duration
	for _, c := range d.Calls() {
		if isBeat(c) {
			at = append(at, c.Start.Sub(begun))
		}
	}
	return at
}

// A holder is silent for a third of the TTL at most, so that one late answer
// does not cost the lease, and for a second at most, so that it is told soon
// when its session was ended. pg_stat_activity shows the last statement of a session,
// which says what the lease is for.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		locker advisorylock.Locker
		every  time.Duration
		text   string
	}{
		{"default", advisorylock.Locker{}, time.Second, "SELECT 1"},
		{"three seconds", advisorylock.Locker{TTL: 3 * time.Second, Name: "app"}, time.Second, "SELECT /* bootlock: app */ 1"},
		{"floor", advisorylock.Locker{TTL: time.Millisecond, Name: "*/ DROP"}, time.Second / 3, "SELECT /* bootlock: __ DROP */ 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				begun := time.Now()
				err := f.call(tt.locker, t.Context(), db, key, func(ctx context.Context) error {
					time.Sleep(20*tt.every + tt.every/2)
					return ctx.Err()
				})
				if err != nil {
					t.Fatal(err)
				}
				at := beats(d, begun)
				if len(at) != 20 {
					t.Errorf("got heartbeats at %v; want 20", at)
				}
				for i, b := range at {
					if want := time.Duration(i+1) * tt.every; b != want {
						t.Errorf("heartbeat %d: got %v; want %v", i, b, want)
					}
				}
				for _, c := range d.Calls() {
					if isBeat(c) && (c.Kind != recdriver.Exec || c.Query != tt.text || len(c.Args) > 0 || c.Conn != 1) {
						t.Errorf("got a heartbeat by %s %s with %v on connection %d; want a literal Exec of %s on 1", c.Kind, c.Query, c.Args, c.Conn, tt.text)
					}
				}
			})
		})
	}
}

// On a network that goes silent the holder must stop before the server gives the
// lock to the next one. All it can rely on is when it *sent* the last heartbeat
// that was answered: the server's clock for the lease started no earlier.
func TestLeaseIsLostOnASilentNetwork(t *testing.T) {
	t.Parallel()
	const margin = ttl / 10
	for _, tt := range []struct {
		name string
		hook func(comeBack <-chan struct{}) func(context.Context, *recdriver.Call) error
		want time.Duration
	}{
		{"from the first heartbeat on", func(comeBack <-chan struct{}) func(context.Context, *recdriver.Call) error {
			return onBeat(1, func() error { <-comeBack; return nil })
		}, ttl - margin},
		{"from the third heartbeat on", func(comeBack <-chan struct{}) func(context.Context, *recdriver.Call) error {
			return onBeat(3, func() error { <-comeBack; return nil })
		}, 2*time.Second + ttl - margin},
		{"second heartbeat answered late", func(comeBack <-chan struct{}) func(context.Context, *recdriver.Call) error {
			n := 1
			return onBeat(2, func() error { // sent at 2 s
				if n++; n == 2 {
					time.Sleep(15 * time.Second)
					return nil
				}
				<-comeBack
				return nil
			})
		}, 2*time.Second + ttl - margin},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachInEveryMode(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				comeBack := make(chan struct{})
				d.OnCall(tt.hook(comeBack))
				var r locktrace.Recorder
				begun := time.Now()
				var ended time.Duration
				err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, func(ctx context.Context) error {
					<-ctx.Done()
					ended = time.Since(begun)
					if got := context.Cause(ctx); got != advisorylock.ErrLost { //nolint:errorlint // itself
						t.Errorf("got cause %v; want ErrLost", got)
					}
					return nil // and does not even say so
				})
				if ended != tt.want {
					t.Errorf("the function's context ended after %v; want %v", ended, tt.want)
				}
				checkSame(t, "time taken", time.Since(begun), tt.want)
				checkIs(t, err, advisorylock.ErrLost)
				checkSame(t, "steps", r.String(), "connect > begin > lock > rollback! > release!")
				if err := advisorylock.TryWithXactLock(t.Context(), db, key+1, nothing); err != nil {
					t.Errorf("another call: %v", err)
				}
				close(comeBack)
				synctest.Wait()
				closedAndNeverPooled(t, d, 1)
			})
		})
	}
}

// A heartbeat that fails is no reason to wait for the deadline.
func TestSessionOfTheLeaseEnds(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		boom := errors.New("boom")
		for name, fnErr := range map[string]error{"nil": nil, "own": boom, "context's": context.Canceled} {
			begun := time.Now()
			err := advisorylock.Locker{Name: "app"}.Hold(t.Context(), db, key, func(ctx context.Context) error {
				time.Sleep(time.Second)
				if d.Server().Kill(int64(key)) != 1 {
					t.Error("there was no session to kill")
				}
				<-ctx.Done()
				if got := time.Since(begun); got > 2*time.Second {
					t.Errorf("the function learned of it after %v; want at most a second after it happened, by the next heartbeat", got-time.Second)
				}
				if got := context.Cause(ctx); got != advisorylock.ErrLost { //nolint:errorlint // itself
					t.Errorf("got cause %v; want ErrLost", got)
				}
				return fnErr
			})
			if !errors.Is(err, advisorylock.ErrLost) {
				t.Errorf("%s: got %v; want ErrLost", name, err)
			}
			if fnErr != nil && !errors.Is(err, fnErr) {
				t.Errorf("%s: got %v; want the function's error in its chain", name, err)
			}
			if !errors.Is(err, driver.ErrBadConn) && !errors.As(err, new(recdriver.SQLError)) {
				t.Errorf("%s: got %v; want the driver's error in its chain", name, err)
			}
			if !strings.HasPrefix(err.Error(), "advisorylock.Hold app: advisorylock: the lock was lost: ") {
				t.Errorf("%s: got %v; want it to name the operation and the lock", name, err)
			}
		}
	})
}

// The session ends after the last heartbeat, so that only the end of the
// transaction can tell.
func TestSessionOfTheLeaseEndsUnnoticed(t *testing.T) {
	t.Parallel()
	for name, fnErr := range map[string]error{"nil": nil, "error": errors.New("boom")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
				err := advisorylock.Hold(t.Context(), db, key, func(context.Context) error {
					d.Server().Kill(int64(key))
					return fnErr
				})
				if !errors.Is(err, advisorylock.ErrLost) || fnErr != nil && !errors.Is(err, fnErr) {
					t.Errorf("got %v; want ErrLost, and %v in its chain", err, fnErr)
				}
			})
		})
	}
}

// When the function is done while a heartbeat is under way, its answer is waited
// for, in bounds: without it nobody knows whether the lock was there.
func TestFnEndsWhileAHeartbeatHangs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		ttl    time.Duration
		cancel bool
		answer time.Duration // after the function has returned; 0 is never
		want   time.Duration
		lost   bool
	}{
		{"answered late", 0, false, time.Second, time.Second, false},
		{"never answered", 0, false, 0, advisorylock.EndTime, true},
		{"never answered, short lease", 3 * time.Second, false, 0, 700 * time.Millisecond, true},
		{"never answered, context ended", 0, true, 0, bounded.Grace, true},
		{"answered late, context ended", 0, true, bounded.Grace / 2, bounded.Grace / 2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				ctx, cancel := context.WithCancelCause(t.Context())
				comeBack := make(chan struct{})
				d.OnCall(onBeat(1, func() error { <-comeBack; return nil }))
				beat := d.Started(recdriver.Exec, "", 2) // the first is the lock
				var returned time.Time
				err := f.call(advisorylock.Locker{TTL: tt.ttl}, ctx, db, key, func(context.Context) error {
					<-beat
					time.Sleep(time.Second)
					if tt.cancel {
						cancel(errShutdown)
					}
					if tt.answer > 0 {
						time.AfterFunc(tt.answer, func() { close(comeBack) })
					}
					returned = time.Now()
					return nil
				})
				if took := time.Since(returned); took != tt.want {
					t.Errorf("came back %v after the function; want %v", took, tt.want)
				}
				if errors.Is(err, advisorylock.ErrLost) != tt.lost || err != nil && !tt.lost {
					t.Errorf("got %v; want ErrLost: %t", err, tt.lost)
				}
				if tt.answer == 0 {
					close(comeBack)
				}
			})
		})
	}
}

// The lease counts from the statement that was granted, not from the first one
// that asked: a long wait must not use it up.
func TestLeaseCountsFromTheGrant(t *testing.T) {
	t.Parallel()
	bubble(t, recdriver.Plain, func(t *testing.T, d *recdriver.Driver, db *sql.DB) {
		time.AfterFunc(90*time.Second+500*time.Millisecond, lockElsewhere(t, d, key))
		begun := time.Now()
		err := advisorylock.Hold(t.Context(), db, key, func(ctx context.Context) error {
			time.Sleep(5 * time.Minute)
			return ctx.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		var asked time.Duration // the burst that was granted: the clock may have started then
		for _, c := range d.Calls() {
			if c.Kind == recdriver.Exec && strings.Contains(c.Query, "advisory_xact_lock") {
				asked = c.Start.Sub(begun)
			}
		}
		if at := beats(d, begun); len(at) == 0 || at[0] != asked+time.Second {
			t.Errorf("got heartbeats at %v; want the first one a second after %v, when the last burst was sent", at, asked)
		}
	})
}

// A heartbeat that the server has answered with an error ended the transaction,
// and with it the lock, though the session lives.
func TestHeartbeatThatIsRefused(t *testing.T) {
	t.Parallel()
	each(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
		refused := recdriver.SQLError{Code: "57014", Message: "canceling statement due to user request"}
		d.OnCall(onBeat(1, func() error { return refused }))
		begun := time.Now()
		err := f.call(advisorylock.Locker{}, t.Context(), db, key, func(ctx context.Context) error {
			<-ctx.Done()
			checkSame(t, "time taken", time.Since(begun), time.Second)
			return nil
		})
		checkIs(t, err, advisorylock.ErrLost, refused)
	})
}
