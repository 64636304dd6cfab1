package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A network can go silent without closing anything: a firewall that forgot the
// connection, a node that lost power. pgx returns when the context ends; lib/pq
// hangs in Exec, Rollback, Close, and even while it connects, until TCP gives
// up, and nothing in database/sql can interrupt it.
func TestSilentNetwork(t *testing.T) {
	tests := []struct {
		silent locktrace.Step // the network goes silent as this step begins
		fails  locktrace.Step // the step of the StepError
		steps  string
	}{
		{locktrace.Connect, locktrace.Connect, "connect!"},
		{locktrace.Begin, locktrace.Begin, "connect > begin! > release"},
		{locktrace.Lock, locktrace.Lock, "connect > begin > lock! > rollback > release"},
		{locktrace.CreateSchema, locktrace.CreateSchema, "connect > begin > lock > create schema! > rollback > release"},
		{locktrace.Bootstrap, locktrace.Bootstrap, "connect > begin > lock > create schema > bootstrap! > rollback > release"},
		{locktrace.Commit, locktrace.Commit, "connect > begin > lock > create schema > bootstrap > commit! > release"},
		{locktrace.Rollback, locktrace.Bootstrap, "connect > begin > lock > create schema > bootstrap! > rollback > release"},
		{locktrace.Release, "", "connect > begin > lock > create schema > bootstrap > commit > release > migrate"},
	}
	eachOutage(t, func(t *testing.T, run func(name string, test func(t *testing.T, o outage))) {
		for _, tt := range tests {
			run(string(tt.silent), func(t *testing.T, o outage) {
				var trace locktrace.Recorder
				err := silentEnsure(t, o, tt.silent, &trace)
				if tt.fails == "" && err != nil {
					t.Errorf("got %v; want nil: all was done before the network went silent", err)
				}
				if tt.fails != "" {
					locktest.WantStep(t, err, tt.fails)
					wantEnough(t, err)
				}
				if tt.silent == locktrace.Rollback && !errors.Is(err, errBootstrap) {
					t.Errorf("got %v; want the function's error too", err)
				}
				// Whether the end of a session that is cut off counts as a
				// failure is left open.
				got := strings.NewReplacer("rollback!", "rollback", "release!", "release").Replace(trace.String())
				if got != tt.steps {
					t.Errorf("got  %s\nwant %s", got, tt.steps)
				}
				o.network.Speak()
				o.wantBack(t, func(ctx context.Context) error { return schemaguard.Ensure(ctx, o.db, o.schema, nil) })
			})
		}
	})
}

var errBootstrap = errors.New("bootstrap failed")

func silentEnsure(t *testing.T, o outage, silent locktrace.Step, trace *locktrace.Recorder) error {
	t.Helper()
	ctx, cut := o.prepare(t)
	guard := schemaguard.Guard{Trace: trace.Trace()}
	guard.Trace.Start = func(ctx context.Context, e locktrace.Event) context.Context {
		if e.Step == silent {
			cut()
		}
		return ctx
	}
	guard.Bootstrap = func(ctx context.Context, tx *sql.Tx) error {
		switch silent {
		case locktrace.Rollback:
			return errBootstrap
		case locktrace.Bootstrap: // a callback that uses lib/pq by itself hangs with it
			<-ctx.Done()
			return ctx.Err()
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %q.migrations (id int)", o.schema))
		return err
	}
	return returns(t, ctx, await.Go(func() error {
		return guard.Ensure(ctx, o.db, o.schema, func(context.Context, *sql.DB) error { return nil })
	}))
}

// The wait itself is where a call spends its time, so it is where a network most
// likely goes silent.
func TestNetworkGoesSilentInTheWait(t *testing.T) {
	eachOutage(t, func(t *testing.T, run func(name string, test func(t *testing.T, o outage))) {
		for op, wait := range locktest.Waits {
			run(op, func(t *testing.T, o outage) {
				admin := sqltest.Open(t, "pgx", o.dsn)
				holder := sqltest.Occupy(t, o.dsn, o.key)
				ctx, cut := o.prepare(t)
				locker, lasting := locktest.Lasting(advisorylock.Locker{})
				done := await.Go(func() error { return wait(ctx, locker, o.db, o.key) })
				if op == "Hold" { // the other one soon after it has begun
					locktest.AwaitReport(t, lasting, done)
				}
				sqltest.AwaitWaiters(t, admin, o.key, 1)
				cut()
				err := returns(t, ctx, done)
				locktest.WantStep(t, err, locktrace.Lock)
				wantEnough(t, err)
				if !errors.As(err, new(*advisorylock.WaitError)) {
					t.Errorf("got %v; want a WaitError", err)
				}
				o.network.Speak()
				sqltest.Commit(t, holder)
				o.wantBack(t, func(ctx context.Context) error { return wait(ctx, advisorylock.Locker{}, o.db, o.key) })
			})
		}
	})
}

// outage is what a test of a silent network has.
type outage struct {
	network *network
	silence relay.Silence
	dsn     string           // by the straight way
	db      *sql.DB          // by way of the network
	schema  string           // of its own, as is
	key     advisorylock.Key // since all share one database
}

// eachOutage runs the tests that it is given, for each driver and kind of
// silence, in parallel, and checks that none leaves a connection or a session behind.
func eachOutage(t *testing.T, tests func(t *testing.T, run func(name string, test func(t *testing.T, o outage)))) {
	t.Helper()
	t.Parallel()
	db := newTestDB(t, pgtest.Shared(t))
	t.Run("in", func(t *testing.T) { // returns when all in it are done
		tests(t, func(name string, test func(t *testing.T, o outage)) {
			for silence, name := range map[relay.Silence]string{relay.Lost: name + ", lost", relay.Late: name + ", late"} {
				t.Run(name, func(t *testing.T) {
					eachDriver(t, func(t *testing.T, driver string) {
						t.Parallel()
						o := outage{silence: silence, dsn: db.dsn, network: newNetwork(t, db.dsn), key: advisorylock.KeyOf(t.Name())}
						o.schema = "app" + o.key.String()
						o.db = sqltest.Open(t, driver, o.network.dsn)
						test(t, o)
						o.leavesNothing(t)
					})
				})
			}
		})
	})
	db.holdsNoLock(t)
}

var errEnough = errors.New("waited long enough")

// prepare returns a context, and a function that makes the network go silent and
// ends the context a moment later, when the calls to come are under way.
func (o outage) prepare(t *testing.T) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return ctx, sync.OnceFunc(func() {
		o.network.Silence(o.silence)
		time.AfterFunc(200*time.Millisecond, func() { cancel(errEnough) })
	})
}

// returns gives the error of the call, which must be back soon after its context
// has ended: one that hangs would go on until TCP gives up, which takes minutes at least.
func returns(t *testing.T, ctx context.Context, done <-chan error) error {
	t.Helper()
	await.Value(t, ctx.Done())
	return await.Value(t, done)
}

func wantEnough(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, context.Canceled) || !errors.Is(err, errEnough) {
		t.Errorf("got %v; want the context's error and its cause", err)
	}
}

// wantBack checks that call works now that the network is back. Connections
// that broke with it may take a moment to be found out.
func (o outage) wantBack(t *testing.T, call func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := call(ctx); err != nil {
		t.Errorf("when the network is back: %v", err)
	}
}

// leavesNothing checks what calls that gave up on a driver leave behind, once
// the driver has come back.
func (o outage) leavesNothing(t *testing.T) {
	t.Helper()
	await.Until(t, "all connections to be back", func() error {
		if inUse := o.db.Stats().InUse; inUse != 0 {
			return fmt.Errorf("got %d in use", inUse)
		}
		return nil
	})
	await.Until(t, "its locks to be free while the pool is open", func() error {
		for _, key := range []advisorylock.Key{o.key, schemaguard.KeyFor(o.schema)} {
			if sessions, err := advisorylock.Sessions(t.Context(), o.db, key); err != nil || len(sessions) != 0 {
				return fmt.Errorf("got %v, %w", sessions, err)
			}
		}
		return nil
	})
	if err := o.db.Close(); err != nil {
		t.Error(err)
	}
	o.network.Close()
}

// network is a way to the server that can go silent.
type network struct {
	*relay.Relay
	dsn string
}

func newNetwork(t *testing.T, dsn string) *network {
	t.Helper()
	server, err := pgtest.Addr(dsn)
	if err != nil {
		t.Fatal(err)
	}
	r := relay.New(t, server)
	return &network{r, pgtest.WithAddr(dsn, r.Addr)}
}
