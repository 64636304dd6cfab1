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
	t.Parallel()
	db := newTestDB(t, pgtest.Shared(t))
	t.Run("in", func(t *testing.T) { // returns when all in it are done
		for _, tt := range tests {
			for silence, name := range map[relay.Silence]string{relay.Lost: "lost", relay.Late: "late"} {
				t.Run(string(tt.silent)+", "+name, func(t *testing.T) {
					eachDriver(t, func(t *testing.T, driver string) {
						t.Parallel()
						o := outage{silence: silence, network: newNetwork(t, db.dsn), schema: "app" + advisorylock.KeyOf(t.Name()).String()}
						o.db = sqltest.Open(t, driver, o.network.dsn)
						var trace locktrace.Recorder
						err := o.ensure(t, tt.silent, &trace)
						if tt.fails == "" && err != nil {
							t.Errorf("got %v; want nil: all was done before the network went silent", err)
						}
						if tt.fails != "" {
							locktest.WantStep(t, err, tt.fails)
							if !errors.Is(err, context.Canceled) || !errors.Is(err, errEnough) {
								t.Errorf("got %v; want the context's error and its cause", err)
							}
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
						await.NoError(t, "when the network is back", await.Go(func() error { return schemaguard.Ensure(t.Context(), o.db, o.schema, nil) }))
						o.leavesNothing(t)
					})
				})
			}
		}
	})
	db.holdsNoLock(t)
}

var errBootstrap = errors.New("bootstrap failed")

var errEnough = errors.New("waited long enough")

// outage is what a test of a silent network has.
type outage struct {
	network *network
	silence relay.Silence
	db      *sql.DB // by way of the network
	schema  string  // of its own, as all share one database
}

// ensure has the network go silent as a step begins, and ends the context a moment later,
// when the call is under way. It must be back soon after: one that hangs would go on until
// TCP gives up, which takes minutes at least.
func (o outage) ensure(t *testing.T, silent locktrace.Step, trace *locktrace.Recorder) error {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	cut := sync.OnceFunc(func() {
		o.network.Silence(o.silence)
		time.AfterFunc(200*time.Millisecond, func() { cancel(errEnough) })
	})
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
	done := await.Go(func() error {
		return guard.Ensure(ctx, o.db, o.schema, func(context.Context, *sql.DB) error { return nil })
	})
	await.Value(t, ctx.Done())
	return await.Value(t, done)
}

// leavesNothing checks what calls that gave up on a driver leave behind, once
// the driver has come back.
func (o outage) leavesNothing(t *testing.T) {
	t.Helper()
	await.True(t, "all connections to be back", func() bool { return o.db.Stats().InUse == 0 })
	await.Until(t, "its lock to be free while the pool is open", func() error {
		sessions, err := advisorylock.Sessions(t.Context(), o.db, schemaguard.KeyFor(o.schema))
		if err != nil || len(sessions) != 0 {
			return fmt.Errorf("got %v, %w", sessions, err)
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

func newNetwork(t *testing.T, dsn string) *network { return newTapped(t, dsn, nil) }

// newTapped is a network with taps; see [relay.Listen].
func newTapped(t *testing.T, dsn string, tap func() relay.Tap) *network {
	t.Helper()
	server, err := pgtest.Addr(dsn)
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.Listen("127.0.0.1:0", server, tap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return &network{r, pgtest.WithAddr(dsn, r.Addr)}
}
