package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
)

// database/sql sees no limit on a pgxpool behind it, so that none of the rules for
// pools applies: N locks may take its N connections, and their callbacks, or the next
// lock, wait for one until ctx ends. Whoever reads the error must learn what to do.
func TestPgxpool(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, most int32) (*sql.DB, testDB) {
		db := newTestDB(t, pgtest.Shared(t))
		config, err := pgxpool.ParseConfig(db.dsn)
		if err != nil {
			t.Fatal(err)
		}
		config.MaxConns = most
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		opened := stdlib.OpenDBFromPool(pool)
		t.Cleanup(func() { opened.Close() })
		return opened, db
	}
	t.Run("a lock that finds no connection", func(t *testing.T) {
		db, _ := open(t, 1)
		err := advisorylock.WithXactLock(t.Context(), db, leaseKey, func(ctx context.Context, _ *sql.Tx) error {
			ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			return advisorylock.WithXactLock(ctx, db, leaseKey+1, locktest.Nothing)
		})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "SetMaxOpenConns") {
			t.Errorf("got %v; want context.DeadlineExceeded, and the advice to call SetMaxOpenConns", err)
		}
	})
	t.Run("a migrate that finds no connection", func(t *testing.T) {
		db, _ := open(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		guard := schemaguard.Guard{Serialize: true, Trace: &locktrace.Trace{Waiting: func(context.Context, locktrace.Wait) { cancel() }}}
		err := guard.Ensure(ctx, db, "app", func(ctx context.Context, db *sql.DB) error { return db.PingContext(ctx) })
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "SetMaxOpenConns") {
			t.Errorf("got %v; want context.Canceled, and the advice to call SetMaxOpenConns", err)
		}
	})
	t.Run("fifty schemas on four connections, and the limit told", func(t *testing.T) {
		db, server := open(t, 4)
		db.SetMaxOpenConns(4)
		ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
		defer cancel()
		var all sync.WaitGroup
		for i := range 50 {
			schema := fmt.Sprintf("tenant_%d", i)
			all.Go(func() {
				err := schemaguard.Migrate(ctx, db, schema, func(ctx context.Context, db *sql.DB) error {
					_, err := db.ExecContext(ctx, "CREATE TABLE "+schema+".t ()")
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		server.holdsNoLock(t)
	})
}

// pgx heeds ctx as long as nothing is plugged into it that does not. Recognised by its
// import path, it was called directly, and these calls never came back.
func TestPgxThatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(config *pgx.ConnConfig, release <-chan struct{}) []stdlib.OptionOpenDB{
		"a BeforeConnect that hangs": func(_ *pgx.ConnConfig, release <-chan struct{}) []stdlib.OptionOpenDB {
			return []stdlib.OptionOpenDB{stdlib.OptionBeforeConnect(func(context.Context, *pgx.ConnConfig) error {
				<-release
				return errors.New("released")
			})}
		},
		"a context watcher that waits for the server": func(config *pgx.ConnConfig, _ <-chan struct{}) []stdlib.OptionOpenDB {
			config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
				return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, CancelRequestDelay: 0, DeadlineDelay: time.Hour}
			}
			return nil
		},
		"a net.Conn without deadlines": func(config *pgx.ConnConfig, _ <-chan struct{}) []stdlib.OptionOpenDB {
			config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				return timeless{conn}, err
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := newTestDB(t, pgtest.Shared(t))
			network := newNetwork(t, server.dsn)
			config, err := pgx.ParseConfig(network.dsn)
			if err != nil {
				t.Fatal(err)
			}
			release := make(chan struct{})
			options := spoil(config, release)
			db := stdlib.OpenDB(*config, options...)
			t.Cleanup(func() { db.Close() })
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			locker := advisorylock.Locker{Trace: &locktrace.Trace{Start: func(ctx context.Context, e locktrace.Event) context.Context {
				if e.Step == locktrace.Lock {
					network.Silence(relay.Lost)
				}
				return ctx
			}}}
			err = returns(t, ctx, await.Go(func() error { return locker.WithXactLock(ctx, db, leaseKey, locktest.Nothing) }))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v; want context.DeadlineExceeded", err)
			}
			close(release)
			network.Speak()
			network.Close()
		})
	}
}

// timeless ignores deadlines, as a tunnel or a wrapper may.
type timeless struct{ net.Conn }

func (timeless) SetDeadline(time.Time) error      { return nil }
func (timeless) SetReadDeadline(time.Time) error  { return nil }
func (timeless) SetWriteDeadline(time.Time) error { return nil }
