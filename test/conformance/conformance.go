// Package conformance states what packages advisorylock and schemaguard promise,
// as one suite that is run once per driver, driver mode, server and pooler. It
// imports no driver.
//
//   - [Run] runs the suite.
//   - [Target] is one way to a database.
package conformance

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// Target is one way to a database that belongs to the suite alone.
type Target struct {
	Driver string // as registered with database/sql
	DSN    string // as a superuser, through the pooler if there is one
	Admin  string // as a superuser, without a pooler; empty means DSN
	Weak   string // as the role that [WeakRole] made; empty leaves out what needs it
}

// A promise is one statement about the library, tried on a target.
type promise struct {
	name string
	try  func(t *testing.T, tg Target)
}

// Run tries every promise, and then that nothing was left behind.
func Run(t *testing.T, tg Target) {
	t.Helper()
	if tg.Admin == "" {
		tg.Admin = tg.DSN
	}
	// The group ends when all its parallel tests have.
	t.Run("promise", func(t *testing.T) {
		for _, ps := range [][]promise{lockPromises, holdPromises, fencePromises, schemaPromises} {
			for _, p := range ps {
				t.Run(p.name, func(t *testing.T) {
					t.Parallel()
					p.try(t, tg)
				})
			}
		}
	})
	t.Run("nothing is left behind", func(t *testing.T) {
		admin := tg.admin(t)
		for what, count := range map[string]string{
			"advisory locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
			"transactions":   "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
		} {
			await.True(t, "no "+what, func() bool { return sqltest.Ask[int](t, admin, count) == 0 })
		}
	})
}

func (tg Target) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	t.Cleanup(cancel)
	return ctx
}

// open opens a pool that stands for one process.
func (tg Target) open(t *testing.T) *sql.DB {
	t.Helper()
	return locktest.Pool(t, tg.Driver, tg.DSN)
}

func (tg Target) admin(t *testing.T) *sql.DB {
	t.Helper()
	return sqltest.Open(t, tg.Driver, tg.Admin)
}

// record opens a pool whose driver calls are recorded.
func (tg Target) record(t *testing.T) (*recdriver.Driver, *sql.DB) {
	t.Helper()
	rec := recdriver.WrapDriver(tg.driver(t), tg.DSN)
	db := rec.OpenDB()
	t.Cleanup(func() { db.Close() })
	return rec, db
}

func (tg Target) driver(t *testing.T) driver.Driver {
	t.Helper()
	db, err := sql.Open(tg.Driver, tg.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	return db.Driver()
}

// encodable leaves out the texts that the encoding of the database cannot hold.
func (tg Target) encodable(t *testing.T, texts []string) []string {
	t.Helper()
	latin := sqltest.Ask[string](t, tg.admin(t), "SHOW server_encoding") == "LATIN1"
	return slices.DeleteFunc(texts, func(text string) bool {
		return latin && strings.ContainsFunc(text, func(r rune) bool { return r > 0xff })
	})
}

func keyOf(t *testing.T) advisorylock.Key { return advisorylock.KeyOf(t.Name()) }

// crowd counts those that are inside at the same time.
type crowd struct{ now, most, total atomic.Int32 }

func (c *crowd) enter() {
	c.total.Add(1)
	n := c.now.Add(1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
}

func (c *crowd) leave() { c.now.Add(-1) }

// together runs fn n times at once, from one barrier, and returns the errors.
func together(n int, fn func(i int) error) []error {
	barrier, done := make(chan struct{}), make(chan error, n)
	for i := range n {
		go func() {
			<-barrier
			done <- fn(i)
		}()
	}
	close(barrier)
	errs := make([]error, n)
	for i := range errs {
		errs[i] = <-done
	}
	return errs
}

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Errorf("got %v; want no error", err)
		}
	}
}

func wantCalls(t *testing.T, rec *recdriver.Driver, want string) {
	t.Helper()
	if got := rec.String(); got != want {
		t.Errorf("got driver calls %q; want %q", got, want)
	}
}

func wantOrder(t *testing.T, r *locktrace.Recorder, want string) {
	t.Helper()
	if got := r.String(); got != want {
		t.Errorf("got steps %q; want %q", got, want)
	}
}

func wantIs(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("got %v; want errors.Is %v", err, target)
		}
	}
}
