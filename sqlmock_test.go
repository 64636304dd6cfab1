//go:build go1.25

package bootlock_test

import (
	"context"
	"database/sql"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

var errMocked = errors.New("mocked")

// The order of calls, and what takes the place of the steps still due after a
// failure at each of them. A step marked with ! is the one that fails. Three
// witnesses must agree on every row: sqlmock's expectations, which are in order
// and all met; the Recorder; and a recording driver around sqlmock's, which
// unlike sqlmock sees connect and release too. The options under which migrate has a
// lock are in schemaguardtest's TestExpectGuard.
//
// The pool is of one connection: a start that kept its own during migrate would hang
// here for ever.
func TestOrderOfCalls(t *testing.T) {
	t.Parallel()
	const (
		created   = "connect > begin > lock > create schema"
		committed = created + " > commit > release"
		booted    = created + " > bootstrap > commit > release"
		refused   = created + "! > rollback > release > connect > look > release"
	)
	denied := recdriver.SQLError{Code: "42501", Message: "permission denied for database app"}
	clash := recdriver.SQLError{Code: "23505", Constraint: "pg_namespace_nspname_index"}
	standby := recdriver.SQLError{Code: "0A000", Message: "cannot set transaction read-write mode during recovery"}

	bootstrap := schemaguard.Guard{Bootstrap: mockedBootstrap}
	skip := schemaguard.Guard{SkipIfExists: true}

	for _, row := range []mockedRow{
		{name: "success", order: committed + " > migrate"},
		{name: "connect", order: "connect!", step: locktrace.Connect},
		{name: "begin", order: "connect > begin! > release", step: locktrace.Begin},
		{name: "lock", order: "connect > begin > lock! > rollback > release", step: locktrace.Lock},
		{name: "create schema", order: created + "! > rollback > release", step: locktrace.CreateSchema},
		{name: "commit", order: created + " > commit! > release", step: locktrace.Commit}, // outcome unknown: no rollback
		{name: "release", order: committed + " > migrate", releaseFails: true},            // committed all the same
		{name: "migrate", order: committed + " > migrate!", step: locktrace.Migrate},
		{name: "lock, rollback", order: "connect > begin > lock! > rollback! > release", step: locktrace.Lock},
		{name: "create schema, rollback", order: created + "! > rollback! > release", step: locktrace.CreateSchema},

		{name: "bootstrap: success", guard: bootstrap, order: booted + " > migrate"},
		{name: "bootstrap: bootstrap", guard: bootstrap, order: created + " > bootstrap! > rollback > release", step: locktrace.Bootstrap},
		{name: "bootstrap: bootstrap, rollback", guard: bootstrap, order: created + " > bootstrap! > rollback! > release", step: locktrace.Bootstrap},
		{name: "bootstrap: commit", guard: bootstrap, order: created + " > bootstrap > commit! > release", step: locktrace.Commit},
		{name: "bootstrap: migrate", guard: bootstrap, order: booted + " > migrate!", step: locktrace.Migrate},

		{name: "clash", err: clash, order: created + "! > rollback > release > " + committed + " > migrate"},
		{name: "clash in bootstrap", guard: bootstrap, err: clash, order: created + " > bootstrap! > rollback > release > " + booted + " > migrate"},

		{name: "refused, there", err: denied, there: true, order: refused + " > migrate"},
		{name: "refused, not there", err: denied, order: refused, step: locktrace.CreateSchema},
		{name: "refused, there, bootstrap", guard: bootstrap, err: denied, there: true, order: refused + " > connect > begin > lock > bootstrap > commit > release > migrate"},
		{name: "standby, there", err: standby, there: true, order: "connect > begin! > release > connect > look > release > migrate"},
		{name: "standby, not there", err: standby, order: "connect > begin! > release > connect > look > release", step: locktrace.Begin},

		{name: "skip: there", guard: skip, there: true, order: "connect > look > release > migrate"},
		{name: "skip: not there", guard: skip, order: "connect > look > release > " + committed + " > migrate"},
		{name: "skip: connect", guard: skip, order: "connect!", step: locktrace.Connect},
		{name: "skip: look", guard: skip, order: "connect > look! > release", step: locktrace.Look},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.run(t)
		})
	}
}

// mockedRow is one row of TestOrderOfCalls.
type mockedRow struct {
	name  string
	guard schemaguard.Guard
	order string

	step         locktrace.Step // at which Ensure fails, empty if it does not
	err          error          // what the step marked with ! fails with; errMocked if nil
	there        bool           // what a look finds
	releaseFails bool           // connections turn out to be bad when they are released
}

// mockedSQL is how the statement of a step begins.
var mockedSQL = map[locktrace.Step]string{
	locktrace.Lock:         "SELECT pg_catalog.pg_advisory_xact_lock(" + schemaguard.KeyFor("app").String() + ")",
	locktrace.CreateSchema: `CREATE SCHEMA IF NOT EXISTS "app"`,
	locktrace.Look:         "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'app'",
	locktrace.Bootstrap:    "CREATE TABLE IF NOT EXISTS app.migrations ()",
	locktrace.Migrate:      "ALTER TABLE app.migrations ADD COLUMN IF NOT EXISTS id int",
}

func mockedBootstrap(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, mockedSQL[locktrace.Bootstrap])
	return err
}

func (row mockedRow) run(t *testing.T) {
	if row.err == nil {
		row.err = errMocked
	}
	plain, mock, err := sqlmock.NewWithDSN(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	driver := recdriver.WrapDriver(plain.Driver(), t.Name())
	row.expect(mock, driver)
	db := driver.OpenDB()
	defer db.Close()
	db.SetMaxOpenConns(1)

	var rec locktrace.Recorder
	row.guard.Trace = rec.Trace()
	err = row.guard.Ensure(t.Context(), db, "app", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, mockedSQL[locktrace.Migrate])
		return err
	})
	if n := db.Stats().InUse; n != 0 {
		t.Errorf("%d connections are still in use", n)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Errorf("sqlmock: %v", err)
	}
	if got := rec.String(); got != row.order {
		t.Errorf("Recorder\ngot  %s\nwant %s", got, row.order)
	}
	if got := driverOrder(driver.Calls()); got != row.order {
		t.Errorf("driver\ngot  %s\nwant %s", got, row.order)
	}
	if row.step == "" {
		if err != nil {
			t.Errorf("got error %v; want none", err)
		}
		return
	}
	var failed *locktrace.StepError
	if !errors.As(err, &failed) || failed.Op != "schemaguard.Ensure" || failed.Step != row.step || !errors.Is(err, row.err) {
		t.Errorf("got error %v; want one of schemaguard.Ensure at %q, because of %v", err, row.step, row.err)
	}
}

// expect has the mock and the driver do what the row says.
func (row mockedRow) expect(mock sqlmock.Sqlmock, driver *recdriver.Driver) {
	if row.releaseFails {
		driver.OnCall(recdriver.FailOn(recdriver.Release, "", 0, errMocked))
	}
	for _, name := range strings.Split(row.order, " > ") {
		name, failed := strings.CutSuffix(name, "!")
		var err error
		if failed {
			err = row.err
		}
		switch step := locktrace.Step(name); step {
		case locktrace.Connect:
			if failed {
				driver.OnCall(recdriver.FailOn(recdriver.Connect, "", 0, err))
			}
		case locktrace.Begin:
			mock.ExpectBegin().WillReturnError(err)
		case locktrace.Commit:
			mock.ExpectCommit().WillReturnError(err)
		case locktrace.Rollback:
			mock.ExpectRollback().WillReturnError(err)
		case locktrace.Release:
		default:
			rows := int64(1)
			if step == locktrace.Look && !row.there {
				rows = 0
			}
			mock.ExpectExec("^" + regexp.QuoteMeta(mockedSQL[step])).WillReturnResult(sqlmock.NewResult(0, rows)).WillReturnError(err)
		}
	}
}

// driverOrder tells a driver's calls in the words of locktrace. It sees release
// as a connection that goes back to the pool, or is closed while it is out.
func driverOrder(calls []recdriver.Call) string {
	var steps []string
	out := false
	for _, c := range calls {
		step := string(c.Kind)
		switch c.Kind {
		case recdriver.Connect, recdriver.Take:
			step = "connect"
			out = c.Err == nil
		case recdriver.Exec:
			for s, text := range mockedSQL {
				if strings.HasPrefix(c.Query, text) {
					step = string(s)
				}
			}
		case recdriver.Release, recdriver.Close:
			if !out {
				continue
			}
			step = "release"
			out = false
			c.Err = nil
		}
		if c.Err != nil {
			step += "!"
		}
		steps = append(steps, step)
	}
	// The connection of migrate is its own business.
	return regexp.MustCompile(`connect > (migrate!?) > release`).ReplaceAllString(strings.Join(steps, " > "), "$1")
}
