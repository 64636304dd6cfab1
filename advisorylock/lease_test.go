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

// onBeat is a hook for heartbeats, which it counts.
func onBeat(do func(n int) error) func(context.Context, *recdriver.Call) error {
	seen := 0
	return func(_ context.Context, c *recdriver.Call) error {
		if !isBeat(*c) {
			return nil
		}
		seen++
		return do(seen)
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
		name         string
		late, silent int // the heartbeats that are answered late, or from then on never
		want         time.Duration
	}{
		{"from the first heartbeat on", 0, 1, ttl - margin},
		{"from the third heartbeat on", 0, 3, 2*time.Second + ttl - margin},
		{"second heartbeat, sent at 2 s, answered late", 2, 3, 2*time.Second + ttl - margin},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachInEveryMode(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				comeBack := make(chan struct{})
				d.OnCall(onBeat(func(n int) error {
					if n == tt.late {
						time.Sleep(15 * time.Second)
					} else if n >= tt.silent {
						<-comeBack
					}
					return nil
				}))
				var r locktrace.Recorder
				begun := time.Now()
				var ended time.Duration
				err := f.call(advisorylock.Locker{Trace: r.Trace()}, t.Context(), db, key, func(ctx context.Context) error {
					<-ctx.Done()
					ended = time.Since(begun)
					checkSame(t, "cause", context.Cause(ctx), advisorylock.ErrLost)
					return nil // and does not even say so
				})
				checkSame(t, "end of the function's context", ended, tt.want)
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

// A heartbeat that fails is no reason to wait for the deadline, be it that the session has
// ended or that the server refuses it: that ended the transaction, and with it the lock.
// If the session ends after the last heartbeat, only the end of the transaction can tell.
func TestSessionOfTheLeaseEnds(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, tt := range map[string]struct {
		fnErr     error
		refused   bool // the session lives
		unnoticed bool
	}{
		"nil":              {},
		"own":              {fnErr: boom},
		"context's":        {fnErr: context.Canceled},
		"refused":          {refused: true},
		"unnoticed":        {unnoticed: true},
		"unnoticed, error": {unnoticed: true, fnErr: boom},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachInEveryMode(t, leases, func(t *testing.T, f form, d *recdriver.Driver, db *sql.DB) {
				begun := time.Now()
				err := f.call(advisorylock.Locker{Name: "app"}, t.Context(), db, key, func(ctx context.Context) error {
					time.Sleep(time.Second)
					if tt.refused {
						d.OnCall(onBeat(func(int) error {
							return recdriver.SQLError{Code: "57014", Message: "canceling statement due to user request"}
						}))
					} else {
						checkSame(t, "sessions that were killed", d.Server().Kill(int64(key)), 1)
					}
					if tt.unnoticed {
						return tt.fnErr
					}
					<-ctx.Done()
					if got := time.Since(begun); got > 2*time.Second {
						t.Errorf("the function learned of it after %v; want at most a second after it happened, by the next heartbeat", got-time.Second)
					}
					checkSame(t, "cause", context.Cause(ctx), advisorylock.ErrLost)
					return tt.fnErr
				})
				checkIs(t, err, advisorylock.ErrLost)
				if tt.fnErr != nil {
					checkIs(t, err, tt.fnErr)
				}
				if (!tt.unnoticed || tt.fnErr == nil) && !errors.Is(err, driver.ErrBadConn) && !errors.As(err, new(recdriver.SQLError)) {
					t.Errorf("got %v; want the driver's error in its chain", err)
				}
				if !strings.HasPrefix(err.Error(), "advisorylock."+f.op+" app: advisorylock: the lock was lost: ") {
					t.Errorf("got %v; want it to name the operation and the lock", err)
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
				d.OnCall(onBeat(func(int) error { <-comeBack; return nil }))
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
				checkSame(t, "time after the function", time.Since(returned), tt.want)
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
