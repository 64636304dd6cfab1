//go:build unix

package test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

const (
	fleetSize = 16 // processes, half of them on each driver

	// fleetTTL is long enough for so many processes on a busy machine.
	fleetTTL = 5 * time.Second
)

// River, gorm, ent, bun, sql-migrate and dbmate look what is there and create
// what is not, without a lock: in nearly every round with 8 processes some fail,
// also when CREATE SCHEMA alone is guarded. With the whole migrate guarded, one
// process does it and nobody fails; and if that one is killed or freezes, another does.
//
// The fleet starts each round together, all connected; the control group shows
// that without the guard these processes do clash.
func TestOncePerFleet(t *testing.T) {
	t.Parallel()
	db := newTestDB(t, pgtest.Shared(t))
	sqltest.Exec(t, db.admin, "CREATE TABLE attempts (schema text, process int)") // each migrate that found something to do
	fleet := startFleet(t, db.dsn)

	const rounds = 100
	clash := false
	for round := 0; !clash && round < rounds; round++ {
		fleet.begin(t, "schema only", fmt.Sprintf("control_%d", round))
		for _, p := range fleet.procs {
			clash = hearAnswer(t, p) != "" || clash
		}
	}
	if !clash {
		t.Errorf("control: got no clash in %d rounds; want one, or the tests below prove nothing", rounds)
	}
	for _, mode := range []string{"up_to_date", "once"} {
		killed := winnerFails(t, db, fleet, mode, mode+"_killed", syscall.SIGKILL)
		fleet.add(t, killed)
		winner := fleet.procs[winnerFails(t, db, fleet, mode, mode+"_frozen", syscall.SIGSTOP)]
		winner.signal(t, syscall.SIGCONT)
		winner.say(t, "go on")
		if failed := hearAnswer(t, winner); !strings.Contains(failed, "the lock was lost") {
			t.Errorf("%s: the old winner: got error %q; want the lock lost", mode, failed)
		}
		db.wantRuns(t, mode+"_frozen")
	}
	db.holdsNoLock(t)
	fleet.finish(t)
}

// winnerFails sends a signal to the one process that is in the middle of its migration.
// That is rolled back, and of those who waited for it exactly one follows. It returns
// who it was.
func winnerFails(t *testing.T, db testDB, fleet *fleet, mode, schema string, signal syscall.Signal) int {
	t.Helper()
	fleet.begin(t, mode, schema)
	await.True(t, "a migrate to begin", func() bool { return db.attempts(t, schema) > 0 })
	winner := sqltest.Ask[int](t, db.admin, "SELECT process FROM attempts WHERE schema = '"+schema+"'")
	fleet.procs[winner].hear(t, "in the middle")
	fleet.procs[winner].signal(t, signal)
	for i, p := range fleet.procs {
		if i == winner {
			continue
		}
		if failed := hearAnswer(t, p); failed != "" {
			t.Errorf("process %d: %s", i, failed)
		}
	}
	db.wantRuns(t, schema)
	return winner
}

func (db testDB) attempts(t *testing.T, schema string) int {
	t.Helper()
	return sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM attempts WHERE schema = '"+schema+"'")
}

// wantRuns checks that two processes set out to migrate, and one did.
func (db testDB) wantRuns(t *testing.T, schema string) {
	t.Helper()
	if got := db.attempts(t, schema); got != 2 {
		t.Errorf("%s: got %d attempts to migrate; want 2", schema, got)
	}
	tables := []string{"version"}
	if strings.HasPrefix(schema, "once") {
		tables = append(tables, "bootlock_once")
	}
	for _, table := range tables {
		if got := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM "+schema+"."+table); got != 1 {
			t.Errorf("%s: got %d rows in %s; want 1", schema, got, table)
		}
	}
}

// fleet is a set of processes that are connected and wait for orders.
type fleet struct {
	dsn   string
	procs [fleetSize]*program
}

func startFleet(t *testing.T, dsn string) *fleet {
	t.Helper()
	f := &fleet{dsn: dsn}
	for i := range fleetSize {
		f.add(t, i)
	}
	return f
}

// add starts the process of number i.
func (f *fleet) add(t *testing.T, i int) {
	t.Helper()
	f.procs[i] = start(t, "ensure", "DSN="+f.dsn, "DRIVER="+drivers[i%len(drivers)], fmt.Sprintf("PROCESS=%d", i))
	f.procs[i].hear(t, "connected")
}

func (f *fleet) begin(t *testing.T, mode, schema string) {
	t.Helper()
	for _, p := range f.procs {
		p.say(t, mode+"\t"+schema)
	}
}

func (f *fleet) finish(t *testing.T) {
	t.Helper()
	for _, p := range f.procs {
		p.finish(t)
	}
}

// hearAnswer returns the error of the Ensure of a process.
func hearAnswer(t *testing.T, p *program) string {
	t.Helper()
	return strings.TrimPrefix(p.hear(t, "done\t"), "done\t")
}

// What the child processes do.

func init() { children["ensure"] = ensureOnOrder }

// ensureOnOrder reads orders, a mode and a schema each.
func ensureOnOrder(db *sql.DB) error {
	if err := db.Ping(); err != nil {
		return err
	}
	fmt.Println("connected")
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		mode, schema, ok := strings.Cut(orders.Text(), "\t")
		if !ok {
			return fmt.Errorf("not an order: %q", orders.Text())
		}
		oneLine := ""
		if err := ensureOnce(db, mode, schema, orders); err != nil {
			oneLine = strings.Join(strings.Fields(err.Error()), " ")
		}
		fmt.Printf("done\t%s\n", oneLine)
	}
	return orders.Err()
}

func ensureOnce(db *sql.DB, mode, schema string, orders *bufio.Scanner) error {
	ctx, cancel := context.WithTimeout(context.Background(), await.Limit)
	defer cancel()
	lib := library{db: db, schema: schema}
	guard := schemaguard.Guard{TTL: fleetTTL}
	switch mode {
	case "up_to_date":
		guard.UpToDate = lib.upToDate
	case "once":
		guard.Once = "build 1"
	}
	if guarded := mode != "schema only"; guarded {
		lib.inTheMiddle = func() {
			fmt.Println("in the middle")
			orders.Scan()
		}
	}
	return guard.Ensure(ctx, db, schema, lib.migrate)
}

// library migrates as libraries without a lock of their own do: look whether it
// is done; if not, do it.
type library struct {
	db          *sql.DB
	schema      string
	inTheMiddle func() // of the first that migrates, if it is under the guard
}

func (l library) upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	var versions int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM "+l.schema+".version").Scan(&versions)
	return versions > 0, err
}

func (l library) migrate(ctx context.Context, _ *sql.DB) error {
	var there bool
	err := l.db.QueryRowContext(ctx, "SELECT to_regclass('"+l.schema+".version') IS NOT NULL").Scan(&there)
	if there || err != nil {
		return err
	}
	// Outside the transaction, so that it stays whatever becomes of that.
	var before int
	err = l.db.QueryRowContext(ctx, "INSERT INTO attempts VALUES ('"+l.schema+"', "+os.Getenv("PROCESS")+
		") RETURNING (SELECT count(*) FROM attempts WHERE schema = '"+l.schema+"')").Scan(&before)
	if err != nil {
		return err
	}
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	if l.inTheMiddle != nil {
		if err := advisorylock.Fence(ctx, tx); err != nil { // else it would keep its tables for as long as it is frozen
			return err
		}
	}
	for _, table := range []string{"version (v int)", "users (id int PRIMARY KEY)", "orders (id serial)"} {
		if _, err := tx.ExecContext(ctx, "CREATE TABLE "+l.schema+"."+table); err != nil {
			return err
		}
	}
	if l.inTheMiddle != nil && before == 0 {
		l.inTheMiddle()
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO "+l.schema+".version VALUES (1)"); err != nil {
		return err
	}
	return tx.Commit()
}

// Once in the ways in which a Guard can be used.
func TestOnce(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		owner, weak := pgtest.Shared(t).NewRole(t), pgtest.Shared(t).NewRole(t)
		db := newTestDB(t, pgtest.Shared(t))
		open := func(dsn string, most int) *sql.DB {
			db := locktest.Pool(t, driver, dsn)
			db.SetMaxOpenConns(most)
			return db
		}
		as := func(role string) *sql.DB { return open(pgtest.WithUser(db.dsn, role, pgtest.RolePassword), 0) }
		refused := func(what string, guard schemaguard.Guard, db *sql.DB, schema, advice string) {
			t.Helper()
			if err := guard.Ensure(t.Context(), db, schema, notReached(t)); err == nil || !strings.Contains(err.Error(), advice) {
				t.Errorf("%s: got %v; want an error that says %q", what, err, advice)
			}
		}
		sqltest.Exec(t, db.admin, "CREATE SCHEMA not_mine; GRANT USAGE ON SCHEMA not_mine TO PUBLIC")
		build1, build2 := schemaguard.Guard{Once: "build 1"}, schemaguard.Guard{Once: "build 2"}
		refused("a role without rights, and no table", build1, as(weak), "not_mine", "")
		for schema, tc := range map[string]struct {
			guard schemaguard.Guard
			db    *sql.DB
		}{
			"public":   {build1, open(db.dsn, 0)},
			"two":      {build1, open(db.dsn, 2)},
			"lock_db":  {schemaguard.Guard{Once: "build 1", LockDB: open(db.dsn, 1)}, open(db.dsn, 1)},
			"owned":    {schemaguard.Guard{Once: "build 1", Owner: owner}, open(db.dsn, 0)},
			"not_mine": {build1, open(db.dsn, 0)},
		} {
			calls := 0
			for range 2 {
				if err := tc.guard.Ensure(t.Context(), tc.db, schema, func(ctx context.Context, db *sql.DB) error { calls++; return db.PingContext(ctx) }); err != nil {
					t.Errorf("%s: got %v; want nil", schema, err)
				}
			}
			if calls != 1 {
				t.Errorf("%s: got %d calls of migrate; want 1", schema, calls)
			}
			if n := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM "+schema+".bootlock_once WHERE name = 'build 1' AND at <= now()"); n != 1 {
				t.Errorf("%s: got %d rows; want 1", schema, n)
			}
		}
		refused("LockDB on another database", schemaguard.Guard{Once: "build 1", LockDB: open(pgtest.Shared(t).NewDB(t), 0)}, open(db.dsn, 0), "elsewhere", "")
		if table := sqltest.Ask[string](t, db.admin, "SELECT tableowner FROM pg_tables WHERE schemaname = 'owned'"); table != owner {
			t.Errorf("got owner %s of the table; want %s", table, owner)
		}
		if err := build2.Ensure(t.Context(), as(owner), "owned", func(context.Context, *sql.DB) error { return nil }); err != nil {
			t.Errorf("as the owner, who may not create schemas: got %v; want nil", err)
		}
		if err := build1.Ensure(t.Context(), as(weak), "not_mine", notReached(t)); err != nil {
			t.Errorf("a role without rights, and the row: got %v; want nil", err)
		}
		refused("a role without rights, and no row", build2, as(weak), "not_mine", "GRANT INSERT")
		sqltest.Exec(t, db.admin, "DROP SCHEMA owned CASCADE")
		db.holdsNoLock(t)
	})
}
