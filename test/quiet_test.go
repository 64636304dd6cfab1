//go:build unix

package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// Twenty that wait for a lease are seen by nobody: no CREATE INDEX CONCURRENTLY waits
// for them, no line of the server's log speaks of them, and the statistics of statements
// have a dozen entries of them, which are short. A statement that blocks for 0.9 s may
// take longer on a busy machine; one that lasts for as long as the lease takes forever.
func TestWaitersDisturbNobody(t *testing.T) {
	t.Parallel()
	server := ownServer(t, pgtest.Options{Settings: map[string]string{
		"log_min_duration_statement": "5s", "log_lock_waits": "on", "deadlock_timeout": "5s", "shared_preload_libraries": "pg_stat_statements",
	}})
	stats := sqltest.Open(t, "pgx", server.DSN)
	sqltest.Exec(t, stats, "CREATE EXTENSION pg_stat_statements")
	for _, way := range []string{"direct", "PgBouncer"} {
		t.Run(way, func(t *testing.T) {
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				name, dsn := "quiet_"+strings.ToLower(way)+"_"+driver, ""
				sqltest.Exec(t, stats, "CREATE DATABASE "+name+" TEMPLATE template0")
				if dsn = server.DSNFor(name); way == "PgBouncer" {
					dsn = pgbouncer.New(t, server, "transaction", 4).DSN(dsn)
				}
				indexBesideWaiters(t, stats, name, driver, dsn, way == "PgBouncer")
				db := locktest.Pool(t, driver, dsn)
				for i := range 30 {
					if err := advisorylock.TryHold(t.Context(), db, advisorylock.KeyOf(fmt.Sprint(i)), locktest.None); err != nil {
						t.Error(err)
					}
					if err := schemaguard.Migrate(t.Context(), db, "app", func(context.Context, *sql.DB) error { return nil }); err != nil {
						t.Error(err)
					}
				}
				entriesAreFew(t, stats, name)
			})
		})
	}
	logIsQuiet(t, server, stats)
}

// indexBesideWaiters builds an index under a lease, in the database of the given name,
// that twenty wait for.
func indexBesideWaiters(t *testing.T, admin *sql.DB, name, driver, dsn string, pooled bool) {
	t.Helper()
	holder, key := locktest.Pool(t, driver, dsn), advisorylock.KeyOf(t.Name()) // as large as those of the library, for the statistics
	sqltest.Exec(t, holder, "CREATE TABLE users (id int)")
	var waiting []<-chan error
	err := advisorylock.Hold(t.Context(), holder, key, func(ctx context.Context) error {
		locker, lasting := locktest.Lasting(advisorylock.Locker{})
		for range 20 {
			waiter := locktest.Pool(t, driver, dsn)
			waiting = append(waiting, await.Go(func() error {
				return locker.Hold(t.Context(), waiter, key, locktest.None)
			}))
		}
		for range waiting {
			await.Value(t, lasting)
		}
		if pooled {
			noneIsSeen(t, admin, name)
		}
		_, err := holder.ExecContext(ctx, "CREATE INDEX CONCURRENTLY ON users (id)") // it ends while all of them wait
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, returned := range waiting {
		await.NoError(t, "a waiter", returned)
	}
}

// noneIsSeen: a waiter that polls stands in no queue.
func noneIsSeen(t *testing.T, admin *sql.DB, name string) {
	t.Helper()
	for range 100 {
		seen := sqltest.Ask[string](t, admin, `SELECT coalesce(string_agg(concat_ws(' ', a.pid, a.state, a.query), '; '), '') FROM pg_stat_activity a
			WHERE datname = $1 AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND NOT granted)`, name)
		if seen != "" {
			t.Fatalf("got %s; want nobody in a queue", seen)
		}
	}
}

func entriesAreFew(t *testing.T, stats *sql.DB, name string) {
	t.Helper()
	const ours = "query !~* '(schema|index|table)'" // the rest is what this test does
	of := fmt.Sprintf("FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = '%s') AND %s", name, ours)
	if n := sqltest.Ask[int](t, stats, "SELECT count(*) "+of); n > 20 { // of 30 keys
		t.Errorf("got %d entries; want a dozen, 20 at most:\n%s", n, sqltest.Ask[string](t, stats, "SELECT string_agg(query, E'\n') "+of))
	}
	if n := sqltest.Ask[int](t, stats, "SELECT max(length(query)) "+of); n > 1200 {
		t.Errorf("got a statement of %d bytes; want 1200 at most:\n%s", n, sqltest.Ask[string](t, stats, "SELECT query "+of+" ORDER BY length(query) DESC LIMIT 1"))
	}
}

// logIsQuiet looks at the log of a server when a control is in it.
func logIsQuiet(t *testing.T, server *pgtest.Server, control *sql.DB) {
	t.Helper()
	if _, err := control.ExecContext(t.Context(), "SET log_min_duration_statement = 0; SELECT 1 AS control"); err != nil {
		t.Fatal(err)
	}
	var log string
	await.Until(t, "the control in the server's log", func() (err error) {
		if log, err = server.Log(); err == nil && !strings.Contains(log, "AS control") {
			err = errors.New("not there")
		}
		return err
	})
	noise := regexp.MustCompile("ERROR:|FATAL:|PANIC:|still waiting for|duration: .*(advisory|bootlock)")
	expected := regexp.MustCompile("the database system is|due to administrator command")
	for _, line := range strings.Split(log, "\n") {
		if noise.MatchString(line) && !expected.MatchString(line) {
			t.Errorf("the server logged %.1300s", line)
		}
	}
}
