//go:build unix

package test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

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
	fleet := startFleet(t, func(string) string { return db.dsn })

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
	for _, mode := range []string{"serialize", "up to date"} {
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
	t.Run("winner returns an error", func(t *testing.T) {
		winner := winnerFails(t, db, fleet, "told", func(winner *program) { winner.say(t, "fail") })
		if answer := hearAnswer(t, fleet.procs[winner]); !strings.Contains(answer.err, "told to fail") {
			t.Errorf("the winner: got error %q; want its own", answer.err)
		}
	})
	t.Run("winner is killed", func(t *testing.T) {
		winner := winnerFails(t, db, fleet, "killed", func(winner *program) { winner.signal(t, syscall.SIGKILL) })
		fleet.procs = slices.Delete(fleet.procs, winner, winner+1)
	})
	db.holdsNoLock(t)
	fleet.finish(t)
}

// Most starts have nothing to migrate. They must not queue up for anything: here
// somebody else has both keys all the time.
func secondStart(t *testing.T, db testDB, fleet fleet) {
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

// winnerFails lets fail happen to the one process that is in the middle of its
// migration. That is rolled back, and of those who waited for it exactly one
// follows. It returns who it was.
func winnerFails(t *testing.T, db testDB, fleet fleet, schema string, fail func(winner *program)) int {
	t.Helper()
	fleet.begin(t, "first fails", schema)
	await.True(t, "a migrate to be in the middle", func() bool { return db.attempts(t, schema) > 0 })
	db.awaitSomeWaiters(t)
	winner := sqltest.Ask[int](t, db.admin, "SELECT process FROM attempts WHERE schema = '"+schema+"'")
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
}

// fleet is a set of processes that are connected and wait for orders.
type fleet struct{ procs []*program }

func startFleet(t *testing.T, dsn func(driver string) string) fleet {
	t.Helper()
	var f fleet
	for i := range fleetSize {
		driver := drivers[i%len(drivers)]
		f.procs = append(f.procs, start(t, "ensure", "DSN="+dsn(driver), "DRIVER="+driver, fmt.Sprintf("PROCESS=%d", i)))
	}
	for _, p := range f.procs {
		p.hear(t, "connected")
	}
	return f
}

func (f fleet) begin(t *testing.T, mode, schema string) {
	t.Helper()
	for _, p := range f.procs {
		p.say(t, mode+"\t"+schema)
	}
}

// run lets all processes ensure schema at once.
func (f fleet) run(t *testing.T, mode, schema string) []answer {
	t.Helper()
	f.begin(t, mode, schema)
	var answers []answer
	for _, p := range f.procs {
		answers = append(answers, hearAnswer(t, p))
	}
	return answers
}

func (f fleet) failures(answers []answer) int {
	failed := 0
	for _, a := range answers {
		if a.err != "" {
			failed++
		}
	}
	return failed
}

func (f fleet) finish(t *testing.T) {
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
	guard := schemaguard.Guard{Trace: rec.Trace()}
	switch mode {
	case "create schema", "schema only":
	case "serialize":
		guard.Serialize = true
	case "up to date":
		guard.UpToDate = lib.upToDate
	case "first fails":
		guard.UpToDate = lib.upToDate
		lib.inTheMiddle = func(first bool) error {
			if !first {
				return nil
			}
			orders.Scan() // for ever, if nobody says anything
			return errors.New("told to fail")
		}
	default:
		return "", fmt.Errorf("no mode %q", mode)
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
