//go:build unix

package test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// fleetSize is the number of processes, half of them on each driver.
const fleetSize = 16

// River, gorm, ent, bun, sql-migrate and dbmate look what is there and create
// what is not, without a lock: in nearly every round with 8 processes some fail,
// also when CREATE SCHEMA alone is guarded. With the whole migrate guarded, one
// process does it and nobody fails.
//
// The fleet starts each round together, all connected; the control group shows
// that without the guard these processes do clash.
func TestOncePerFleet(t *testing.T) {
	db := newOnceDB(t, pgtest.Shared(t))
	fleet := startFleet(t, db.dsn)

	t.Run("control group without Serialize", func(t *testing.T) {
		const rounds = 20
		for round := range rounds {
			if failed := fleet.failures(fleet.run(t, "schema only", fmt.Sprintf("control_%d", round))); failed > 0 {
				t.Logf("round %d: %d of %d processes failed", round+1, failed, fleetSize)
				return
			}
		}
		t.Errorf("got no clash in %d rounds; want one, or the tests below prove nothing", rounds)
	})
	t.Run("create schema", func(t *testing.T) {
		for round := range 10 {
			for i, answer := range fleet.run(t, "create schema", fmt.Sprintf("schema_%d", round)) {
				if answer.err != "" || strings.Contains(answer.trace, "!") {
					t.Errorf("process %d: got %q, error %q; want no clash where all are guarded", i, answer.trace, answer.err)
				}
			}
		}
	})
	for _, mode := range []string{"serialize", "up to date", "once"} {
		t.Run(mode, func(t *testing.T) {
			for round := range 3 {
				schema := fmt.Sprintf("%s_%d", strings.ReplaceAll(mode, " ", "_"), round)
				for i, answer := range fleet.run(t, mode, schema) {
					if answer.err != "" {
						t.Errorf("process %d: %s", i, answer.err)
					}
				}
				db.wantRuns(t, schema, 1, 1)
			}
		})
	}
	t.Run("second start", func(t *testing.T) { secondStart(t, db, fleet) })
	for _, mode := range []string{"up to date", "once"} {
		schema := func(how string) string { return strings.ReplaceAll(mode, " ", "_") + "_" + how }
		killed := winnerFails(t, db, fleet, mode, schema("killed"), func(winner *program) { winner.signal(t, syscall.SIGKILL) })
		fleet.add(t, killed)
		winner := winnerFails(t, db, fleet, mode, schema("told"), func(winner *program) { winner.say(t, "fail") })
		if answer := hearAnswer(t, fleet.procs[winner]); !strings.Contains(answer.err, "told to fail") {
			t.Errorf("the winner: got error %q; want its own", answer.err)
		}
		winner = winnerFails(t, db, fleet, mode, schema("frozen"), func(winner *program) { winner.signal(t, syscall.SIGSTOP) })
		fleet.procs[winner].signal(t, syscall.SIGCONT)
		wantLost(t, fleet.procs[winner])
		winner = winnerFails(t, db, fleet, mode, schema("ended"), func(*program) {
			db.terminate(t, schemaguard.MigrateKey(schemaguard.KeyFor(schema("ended"))))
		})
		wantLost(t, fleet.procs[winner])
		for _, how := range []string{"killed", "told", "frozen", "ended"} {
			db.wantRuns(t, schema(how), 2, 1) // also when the old winner is back
		}
	}
	db.holdsNoLock(t)
	fleet.finish(t)
}

// Most starts have nothing to migrate. They must not queue up for anything: here
// somebody else has both keys all the time.
func secondStart(t *testing.T, db testDB, fleet *fleet) {
	const schema = "up_to_date_0"
	key := schemaguard.KeyFor(schema)
	taken := sqltest.Occupy(t, db.dsn, key, schemaguard.MigrateKey(key))
	for i, answer := range fleet.run(t, "up to date", schema) {
		if answer.err != "" || answer.trace != "up to date" {
			t.Errorf("process %d: got %q, error %q; want up to date and nothing else", i, answer.trace, answer.err)
		}
	}
	sqltest.Commit(t, taken)
	db.wantRuns(t, schema, 1, 1)
}

// wantLost lets a process go on that was in the middle of its migration.
func wantLost(t *testing.T, winner *program) {
	t.Helper()
	winner.say(t, "go on")
	if answer := hearAnswer(t, winner); !strings.Contains(answer.err, "the lock was lost") {
		t.Errorf("the old winner: got error %q; want the lock lost", answer.err)
	}
}

// winnerFails lets fail happen to the one process that is in the middle of its
// migration. That is rolled back, and of those who waited for it exactly one
// follows. It returns who it was.
func winnerFails(t *testing.T, db testDB, fleet *fleet, mode, schema string, fail func(winner *program)) int {
	t.Helper()
	fleet.begin(t, mode+", first fails", schema)
	await.True(t, "a migrate to begin", func() bool { return db.attempts(t, schema) > 0 })
	winner := sqltest.Ask[int](t, db.admin, "SELECT process FROM attempts WHERE schema = '"+schema+"'")
	fleet.procs[winner].hear(t, "in the middle")
	fail(fleet.procs[winner])
	for i, p := range fleet.procs {
		if i == winner {
			continue
		}
		if answer := hearAnswer(t, p); answer.err != "" {
			t.Errorf("process %d: %s", i, answer.err)
		}
	}
	db.wantRuns(t, schema, 2, 1)
	return winner
}

func newOnceDB(t *testing.T, server *pgtest.Server) testDB {
	t.Helper()
	db := newTestDB(t, server)
	sqltest.Exec(t, db.admin, "CREATE TABLE attempts (schema text, process int)") // each migrate that found something to do
	return db
}

func (db testDB) attempts(t *testing.T, schema string) int {
	t.Helper()
	return sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM attempts WHERE schema = '"+schema+"'")
}

// wantRuns checks how many set out to migrate, and how many did.
func (db testDB) wantRuns(t *testing.T, schema string, attempts, done int) {
	t.Helper()
	if got := db.attempts(t, schema); got != attempts {
		t.Errorf("%s: got %d attempts to migrate; want %d", schema, got, attempts)
	}
	if got := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM "+schema+".version"); got != done {
		t.Errorf("%s: migrated %d times; want %d", schema, got, done)
	}
	if !strings.HasPrefix(schema, "once") {
		return
	}
	if got := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM "+schema+".bootlock_once"); got != done {
		t.Errorf("%s: got %d rows of Once; want %d", schema, got, done)
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

// run lets all processes ensure schema at once.
func (f *fleet) run(t *testing.T, mode, schema string) []answer {
	t.Helper()
	f.begin(t, mode, schema)
	var answers []answer
	for _, p := range f.procs {
		answers = append(answers, hearAnswer(t, p))
	}
	return answers
}

func (f *fleet) failures(answers []answer) int {
	failed := 0
	for _, a := range answers {
		if a.err != "" {
			failed++
		}
	}
	return failed
}

func (f *fleet) finish(t *testing.T) {
	t.Helper()
	for _, p := range f.procs {
		p.finish(t)
	}
}

// answer is what a process tells of its Ensure.
type answer struct{ trace, err string }

func hearAnswer(t *testing.T, p *program) answer {
	t.Helper()
	trace, err, _ := strings.Cut(strings.TrimPrefix(p.hear(t, "done\t"), "done\t"), "\t")
	return answer{trace, err}
}

// What the child processes do.

func init() { children["ensure"] = ensureOnOrder }

// ensureOnOrder reads orders, a mode and a schema each.
func ensureOnOrder() error {
	db, err := sql.Open(os.Getenv("DRIVER"), os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer db.Close()
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
		trace, err := ensureOnce(db, mode, schema, orders)
		oneLine := ""
		if err != nil {
			oneLine = strings.Join(strings.Fields(err.Error()), " ")
		}
		fmt.Printf("done\t%s\t%s\n", trace, oneLine)
	}
	return orders.Err()
}

func ensureOnce(db *sql.DB, mode, schema string, orders *bufio.Scanner) (trace string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), longWait)
	defer cancel()
	var rec locktrace.Recorder
	lib := library{db: db, schema: schema}
	guard := schemaguard.Guard{TTL: leaseTTL, Trace: rec.Trace()}
	mode, firstFails := strings.CutSuffix(mode, ", first fails")
	switch mode {
	case "create schema", "schema only":
	case "serialize":
		guard.Serialize = true
	case "up to date":
		guard.UpToDate = lib.upToDate
	case "once":
		guard.Once = "build 1"
	default:
		return "", fmt.Errorf("no mode %q", mode)
	}
	if firstFails {
		lib.inTheMiddle = func(first bool) error {
			if !first {
				return nil
			}
			fmt.Println("in the middle")
			if orders.Scan() && orders.Text() == "fail" {
				return errors.New("told to fail")
			}
			return nil
		}
	}
	migrate := func(ctx context.Context, _ *sql.DB) error { return lib.migrate(ctx) }
	if mode == "create schema" {
		migrate = nil
	}
	err = guard.Ensure(ctx, db, schema, migrate)
	return rec.String(), err
}

// library migrates as libraries without a lock of their own do: look whether it
// is done; if not, do it.
type library struct {
	db          *sql.DB
	schema      string
	inTheMiddle func(first bool) error
}

func (l library) upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	var versions int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM "+l.schema+".version").Scan(&versions)
	return versions > 0, err
}

func (l library) migrate(ctx context.Context) error {
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
	if l.inTheMiddle != nil {
		if err := l.inTheMiddle(before == 0); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO "+l.schema+".version VALUES (1)"); err != nil {
		return err
	}
	return tx.Commit()
}

// Once in the ways in which a Guard can be used.
func TestOnce(t *testing.T) {
	t.Parallel()
	nothing := func(context.Context, *sql.DB) error { return nil }
	eachDriver(t, func(t *testing.T, driver string) {
		role := pgtest.Shared(t).NewRole(t)
		weak := pgtest.Shared(t).NewRole(t)
		db := newTestDB(t, pgtest.Shared(t))
		guard := schemaguard.Guard{Once: "build 1"}
		twice := func(t *testing.T, guard schemaguard.Guard, db *sql.DB, schema string) {
			t.Helper()
			calls := 0
			for range 2 {
				if err := guard.Ensure(t.Context(), db, schema, func(ctx context.Context, db *sql.DB) error { calls++; return db.PingContext(ctx) }); err != nil {
					t.Errorf("got %v; want nil", err)
				}
			}
			if calls != 1 {
				t.Errorf("got %d calls of migrate; want 1", calls)
			}
			if n := sqltest.Ask[int](t, db, "SELECT count(*) FROM "+schema+".bootlock_once WHERE name = 'build 1' AND at <= now()"); n != 1 {
				t.Errorf("got %d rows; want 1", n)
			}
		}
		t.Run("public", func(t *testing.T) { twice(t, guard, pool(t, driver, db.dsn), "public") })
		t.Run("a pool of two", func(t *testing.T) {
			two := pool(t, driver, db.dsn)
			two.SetMaxOpenConns(2)
			twice(t, guard, two, "two")
		})
		t.Run("LockDB", func(t *testing.T) {
			one, locks := pool(t, driver, db.dsn), pool(t, driver, db.dsn)
			one.SetMaxOpenConns(1)
			locks.SetMaxOpenConns(1)
			guard := guard
			guard.LockDB = locks
			twice(t, guard, one, "lock_db")
		})
		t.Run("LockDB on another database", func(t *testing.T) {
			guard := guard
			guard.LockDB = pool(t, driver, pgtest.Shared(t).NewDB(t))
			if err := guard.Ensure(t.Context(), pool(t, driver, db.dsn), "elsewhere", notReached(t)); err == nil {
				t.Error("got nil; want an error")
			}
		})
		t.Run("Owner", func(t *testing.T) {
			guard := guard
			guard.Owner = role
			twice(t, guard, pool(t, driver, db.dsn), "owned")
			if owner := sqltest.Ask[string](t, db.admin, "SELECT tableowner FROM pg_tables WHERE schemaname = 'owned'"); owner != role {
				t.Errorf("got owner %s of the table; want %s", owner, role)
			}
			guard.Once = "build 2"
			if err := guard.Ensure(t.Context(), pool(t, driver, pgtest.WithUser(db.dsn, role, pgtest.RolePassword)), "owned", nothing); err != nil {
				t.Errorf("as the owner, who may not create schemas: got %v; want nil", err)
			}
		})
		t.Run("a role without rights", func(t *testing.T) {
			sqltest.Exec(t, db.admin, "CREATE SCHEMA not_mine; GRANT USAGE ON SCHEMA not_mine TO PUBLIC")
			as := pool(t, driver, pgtest.WithUser(db.dsn, weak, pgtest.RolePassword))
			err := guard.Ensure(t.Context(), as, "not_mine", notReached(t))
			if err == nil {
				t.Error("got nil where there is no table; want an error")
			}
			twice(t, guard, pool(t, driver, db.dsn), "not_mine")
			if err := guard.Ensure(t.Context(), as, "not_mine", notReached(t)); err != nil {
				t.Errorf("got %v where the row is there; want nil", err)
			}
			other := guard
			other.Once = "build 2"
			if err := other.Ensure(t.Context(), as, "not_mine", notReached(t)); err == nil || !strings.Contains(err.Error(), "GRANT INSERT") {
				t.Errorf("got %v where the row may not be written; want advice", err)
			}
		})
		t.Run("a nil migrate", func(t *testing.T) {
			if err := guard.Ensure(t.Context(), pool(t, driver, db.dsn), "none", nil); err != nil {
				t.Error(err)
			}
			if n := sqltest.Ask[int](t, db.admin, "SELECT count(*) FROM none.bootlock_once"); n != 0 {
				t.Errorf("got %d rows; want the table, and no row", n)
			}
		})
		sqltest.Exec(t, db.admin, "DROP SCHEMA owned CASCADE")
		db.holdsNoLock(t)
	})
}
