package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

// waiters is how many wait behind one holder.
const waiters = 100

const waitedKey = advisorylock.Key(1)

// measureWaiting prints what the wait of a hundred costs the server, over so long a
// time: what they send, how many of its connections they have, how long CREATE INDEX
// CONCURRENTLY and VACUUM take beside them, and the errors in its log.
func measureWaiting(ctx context.Context, over time.Duration) error {
	server, err := pgtest.Start(ctx, pgtest.Options{
		Origin:   pgtest.OriginLocal,
		Settings: map[string]string{"max_connections": "400"},
	})
	if err != nil {
		return err
	}
	defer server.Stop() //nolint:errcheck // the measurement is over
	bouncer, err := pgbouncer.Start(ctx, server, "transaction", 4)
	if err != nil {
		return err
	}
	defer bouncer.Stop()
	t := table.NewWriter()
	t.SetOutputMirror(os.Stdout)
	t.AppendHeader(table.Row{"connections", "waiters", "statements per second and waiter", "server connections, mean", "most", "longest CREATE INDEX CONCURRENTLY", "longest VACUUM", "ERROR lines"})
	for _, way := range []struct{ name, dsn string }{{"direct", server.DSN}, {"PgBouncer, 4", bouncer.DSN(server.DSN)}} {
		w, err := wait(ctx, server, way.dsn, over)
		if err != nil {
			return err
		}
		t.AppendRow(table.Row{
			way.name, waiters, fmt.Sprintf("%.1f", float64(w.statements)/over.Seconds()/waiters),
			fmt.Sprintf("%.1f", float64(w.connections)/float64(w.looks)), w.most,
			w.index.Round(time.Millisecond), w.vacuum.Round(time.Millisecond), w.errors,
		})
	}
	t.RenderMarkdown()
	return nil
}

// waited is what was seen of a wait.
type waited struct {
	statements               int
	connections, looks, most int // of the waiters, on the server
	index, vacuum            time.Duration
	errors                   int
}

// wait has all wait behind a holder, and looks at them from their second second on.
func wait(ctx context.Context, server *pgtest.Server, dsn string, over time.Duration) (w waited, err error) {
	admin, err := sql.Open("pgx", pgtest.WithParams(server.DSN, "application_name", "room"))
	if err != nil {
		return w, err
	}
	defer admin.Close()
	if _, err := admin.ExecContext(ctx, "DROP TABLE IF EXISTS room; CREATE TABLE room AS SELECT g FROM generate_series(1, 1000) g"); err != nil {
		return w, err
	}
	before, err := errorLines(ctx, server)
	if err != nil {
		return w, err
	}
	var all sync.WaitGroup
	drivers := make([]*recdriver.Driver, waiters)
	failed := make(chan error, waiters)
	err = advisorylock.Hold(ctx, admin, waitedKey, func(ctx context.Context) error {
		for i := range drivers {
			drivers[i] = recdriver.WrapDriver(stdlib.GetDefaultDriver(), dsn)
			all.Go(func() {
				db := drivers[i].OpenDB()
				defer db.Close()
				// Its own ctx: they go on when the holder is done.
				if err := advisorylock.Hold(context.WithoutCancel(ctx), db, waitedKey, func(context.Context) error { return nil }); err != nil {
					failed <- err
				}
			})
		}
		time.Sleep(2 * time.Second)
		for _, d := range drivers {
			d.Reset()
		}
		if err := w.look(ctx, admin, time.Now().Add(over)); err != nil {
			return err
		}
		for _, d := range drivers {
			w.statements += statementsOf(d)
		}
		return nil
	})
	all.Wait()
	close(failed)
	if err == nil {
		err = <-failed
	}
	if err != nil {
		return w, err
	}
	after, err := errorLines(ctx, server)
	w.errors = after - before
	return w, err
}

func (w *waited) look(ctx context.Context, admin *sql.DB, until time.Time) error {
	for i := 0; time.Now().Before(until); i++ {
		var n int
		err := admin.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'room'").Scan(&n)
		if err != nil {
			return err
		}
		w.connections, w.looks, w.most = w.connections+n, w.looks+1, max(w.most, n)
		if i%10 == 0 {
			if err := timed(&w.index, func() error {
				_, err := admin.ExecContext(ctx, "CREATE INDEX CONCURRENTLY ON room (g)")
				return err
			}); err != nil {
				return err
			}
			if err := timed(&w.vacuum, func() error { return vacuum(ctx, admin) }); err != nil {
				return err
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}

func timed(longest *time.Duration, do func() error) error {
	began := time.Now()
	err := do()
	*longest = max(*longest, time.Since(began))
	return err
}

// vacuum returns when the rows that were just deleted are gone, for which it takes
// that nobody can see them any more.
func vacuum(ctx context.Context, admin *sql.DB) error {
	if _, err := admin.ExecContext(ctx, "DELETE FROM room"); err != nil {
		return err
	}
	for {
		if _, err := admin.ExecContext(ctx, "VACUUM room"); err != nil {
			return err
		}
		var pages int
		if err := admin.QueryRowContext(ctx, "SELECT pg_relation_size('room')").Scan(&pages); err != nil {
			return err
		}
		if pages == 0 {
			_, err := admin.ExecContext(ctx, "INSERT INTO room SELECT generate_series(1, 1000)")
			return err
		}
	}
}

func statementsOf(d *recdriver.Driver) (n int) {
	for _, c := range d.Calls() {
		switch c.Kind {
		case recdriver.Begin, recdriver.Exec, recdriver.Query, recdriver.Commit, recdriver.Rollback:
			n++
		}
	}
	return n
}

func errorLines(ctx context.Context, server *pgtest.Server) (int, error) {
	log, err := server.Log(ctx)
	return strings.Count(log, "ERROR:"), err
}
