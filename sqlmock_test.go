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

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

var errMocked = errors.New("mocked")

// The order of calls, and what takes the place of the steps still due after a
// failure at each of them. A step marked with ! is the one that fails. Three
// witnesses must agree on every row: sqlmock's expectations, which are in order
// and all met; the Recorder; and a recording driver around sqlmock's, which
// unlike sqlmock sees connect and release too.
//
// The pool is of one connection, two with a lease: a start that kept its own
// during migrate would hang here for ever.
func TestOrderOfCalls(t *testing.T) {
	t.Parallel()
	const (
		created   = "connect > begin > lock > create schema"
		committed = created + " > commit > release"
		booted    = created + " > bootstrap > commit > release"
		leased    = committed + " > connect > begin > lock"
		refused   = created + "! > rollback > release > connect > look > release"
	)
	denied := recdriver.SQLError{Code: "42501", Message: "permission denied for database app"}
	clash := recdriver.SQLError{Code: "23505", Constraint: "pg_namespace_nspname_index"}
	standby := recdriver.SQLError{Code: "0A000", Message: "cannot set transaction read-write mode during recovery"}

	bootstrap := schemaguard.Guard{Bootstrap: mockedBootstrap}
	serialize := schemaguard.Guard{Serialize: true}
	once := schemaguard.Guard{Once: "v1"}
	const asked = "up to date > " + leased + " > up to date"
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
		{name: "migrate panics", order: committed + " > migrate!", panics: true},
		{name: "lock, rollback", order: "connect > begin > lock! > rollback! > release", step: locktrace.Lock},
		{name: "create schema, rollback", order: created + "! > rollback! > release", step: locktrace.CreateSchema},

		{name: "bootstrap: success", guard: bootstrap, order: booted + " > migrate"},
		{name: "bootstrap: bootstrap", guard: bootstrap, order: created + " > bootstrap! > rollback > release", step: locktrace.Bootstrap},
		{name: "bootstrap: bootstrap, rollback", guard: bootstrap, order: created + " > bootstrap! > rollback! > release", step: locktrace.Bootstrap},
		{name: "bootstrap: commit", guard: bootstrap, order: created + " > bootstrap > commit! > release", step: locktrace.Commit},
		{name: "bootstrap: panics", guard: bootstrap, order: created + " > bootstrap! > rollback > release", panics: true},
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

		{name: "serialize: success", guard: serialize, order: leased + " > migrate > commit > release"},
		{name: "serialize: begin", guard: serialize, order: committed + " > connect > begin! > release", step: locktrace.Begin},
		{name: "serialize: lock", guard: serialize, order: leased + "! > rollback > release", step: locktrace.Lock},
		{name: "serialize: migrate", guard: serialize, order: leased + " > migrate! > rollback > release", step: locktrace.Migrate},
		{name: "serialize: migrate panics", guard: serialize, order: leased + " > migrate! > rollback > release", panics: true},
		{name: "serialize: create schema", guard: serialize, order: created + "! > rollback > release", step: locktrace.CreateSchema},
		{name: "serialize: commit", guard: serialize, order: leased + " > migrate > commit! > release", step: locktrace.Migrate},

		{name: "once: first start", guard: once, order: asked + " > migrate > record > commit > release"},
		{name: "once: second start", guard: once, order: "up to date"},
		{name: "once: another has migrated", guard: once, order: asked + " > commit > release"},
		{name: "once: up to date", guard: once, order: "up to date!", step: locktrace.UpToDate},
		{name: "once: create schema", guard: once, order: "up to date > " + created + "! > rollback > release", step: locktrace.CreateSchema},
		{name: "once: lock", guard: once, order: "up to date > " + leased + "! > rollback > release", step: locktrace.Lock},
		{name: "once: up to date, under the lock", guard: once, order: asked + "! > rollback > release", step: locktrace.UpToDate},
		{name: "once: migrate", guard: once, order: asked + " > migrate! > rollback > release", step: locktrace.Migrate},
		{name: "once: migrate panics", guard: once, order: asked + " > migrate! > rollback > release", panics: true},
		{name: "once: record", guard: once, order: asked + " > migrate > record! > rollback > release", step: locktrace.Record},
		{name: "once: commit", guard: once, order: asked + " > migrate > record > commit! > release", step: locktrace.Migrate},
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
	panics       bool           // the function of the step marked with ! panics
	releaseFails bool           // connections turn out to be bad when they are released
}

func (row mockedRow) leases() bool { return row.guard.Serialize || row.guard.Once != "" }

const (
	sqlBootstrap = "CREATE TABLE IF NOT EXISTS app.migrations ()"
	sqlMigrate   = "ALTER TABLE app.migrations ADD COLUMN IF NOT EXISTS id int"
)

func mockedBootstrap(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, sqlBootstrap)
	return err
}

// open returns a pool whose mock expects, and whose driver does, what the row says.
func (row mockedRow) open(t *testing.T) (*sql.DB, sqlmock.Sqlmock, *recdriver.Driver) {
	t.Helper()
	plain, mock, err := sqlmock.NewWithDSN(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	driver := recdriver.WrapDriver(plain.Driver(), t.Name())
	row.expect(mock, driver)
	db := driver.OpenDB()
	t.Cleanup(func() { _, _ = db.Close(), plain.Close() })
	db.SetMaxOpenConns(1)
	if row.leases() {
		db.SetMaxOpenConns(2)
	}
	return db, mock, driver
}

func (row mockedRow) run(t *testing.T) {
	if row.err == nil {
		row.err = errMocked
	}
	db, mock, driver := row.open(t)

	var rec locktrace.Recorder
	var err error
	value := recovered(func() { err = row.ensure(t.Context(), db, &rec) })

	if n := db.Stats().InUse; n != 0 {
		t.Errorf("%d connections are still in use", n)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Errorf("sqlmock: %v", err)
	}
	if got := rec.String(); got != row.order {
		t.Errorf("Recorder\ngot  %s\nwant %s", got, row.order)
	}
	if got, want := driverOrder(driver.Calls()), row.seenByDriver(); got != want {
		t.Errorf("driver\ngot  %s\nwant %s", got, want)
	}
	row.check(t, err, value)
}

func (row mockedRow) ensure(ctx context.Context, db *sql.DB, rec *locktrace.Recorder) error {
	g := row.guard
	g.Trace = rec.Trace()
	if g.Bootstrap != nil && row.panics && strings.Contains(row.order, "bootstrap!") {
		g.Bootstrap = func(ctx context.Context, tx *sql.Tx) error {
			_ = mockedBootstrap(ctx, tx)
			panic(errMocked)
		}
	}
	return g.Ensure(ctx, db, "app", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, sqlMigrate)
		if row.panics {
			panic(errMocked)
		}
		return err
	})
}

func (row mockedRow) check(t *testing.T, err error, value any) {
	if row.panics {
		if value != errMocked { //nolint:errorlint // the very same value
			t.Errorf("got panic %v; want %v", value, errMocked)
		}
		return
	}
	if value != nil {
		t.Fatalf("panic: %v", value)
	}
	if row.step == "" {
		if err != nil {
			t.Errorf("got error %v; want none", err)
		}
		return
	}
	var failed *locktrace.StepError
	if !errors.As(err, &failed) || failed.Op != "schemaguard.Ensure" || failed.Step != row.step {
		t.Errorf("got error %v; want one of schemaguard.Ensure at %q", err, row.step)
	}
	if !errors.Is(err, row.err) {
		t.Errorf("got error %v; want it to wrap %v", err, row.err)
	}
}

// expect has the mock and the driver do what the row says.
func (row mockedRow) expect(mock sqlmock.Sqlmock, driver *recdriver.Driver) {
	if row.releaseFails {
		driver.OnCall(recdriver.FailOn(recdriver.Release, "", 0, errMocked))
	}
	key := schemaguard.KeyFor("app")
	created := false
	steps := strings.Split(row.order, " > ")
	for i, step := range steps {
		name, failed := strings.CutSuffix(step, "!")
		var err error
		if failed && !row.panics {
			err = row.err
		}
		switch locktrace.Step(name) {
		case locktrace.Connect:
			if failed {
				driver.OnCall(recdriver.FailOn(recdriver.Connect, "", 0, err))
			}
		case locktrace.Begin:
			mock.ExpectBegin().WillReturnError(err)
		case locktrace.Lock:
			key := key
			if created && row.leases() {
				key = schemaguard.MigrateKey(key)
			}
			mockExec(mock, regexp.QuoteMeta("pg_catalog.pg_advisory_xact_lock("+key.String()+")"), 1, err)
		case locktrace.CreateSchema:
			created = true
			mockExec(mock, `^CREATE SCHEMA IF NOT EXISTS "app"(; CREATE TABLE IF NOT EXISTS "app".bootlock_once .*)?$`, 0, err)
		case locktrace.UpToDate:
			expectAsked(mock, created, i+1 == len(steps) || steps[i+1] == "commit", err)
		case locktrace.Record:
			mockExec(mock, "pg_class", 1, nil)
			mockExec(mock, `^INSERT INTO "app"\.bootlock_once \(name\) VALUES \('v1'\) ON CONFLICT DO NOTHING$`, 1, err)
		case locktrace.Look:
			rows := int64(0)
			if row.there {
				rows = 1
			}
			mockExec(mock, `^SELECT 1 FROM pg_catalog\.pg_namespace WHERE nspname OPERATOR\(pg_catalog\.=\) 'app'$`, rows, err)
		case locktrace.Bootstrap:
			mockExec(mock, "^"+regexp.QuoteMeta(sqlBootstrap)+"$", 0, err)
		case locktrace.Migrate:
			mockExec(mock, "^"+regexp.QuoteMeta(sqlMigrate)+"$", 0, err)
		case locktrace.Commit:
			mock.ExpectCommit().WillReturnError(err)
		case locktrace.Rollback:
			mock.ExpectRollback().WillReturnError(err)
		}
	}
}

// expectAsked expects the question for the row of Once. At the start there is no table;
// under the lock the catalog is asked first, since that question failed.
func expectAsked(mock sqlmock.Sqlmock, underLock, found bool, err error) {
	const ask = `^SELECT 1 FROM "app"\.bootlock_once WHERE name OPERATOR\(pg_catalog\.=\) 'v1'$`
	rows := int64(0)
	if found {
		rows = 1
	} else if !underLock && err == nil {
		err = errNoTable
	}
	if underLock {
		mockExec(mock, "pg_class", 1, nil)
	}
	mockExec(mock, ask, rows, err)
	if underLock && !found && err == nil {
		mockExec(mock, "pg_class .* 'INSERT'", 1, nil)
	}
}

var errNoTable = recdriver.SQLError{Code: "42P01", Message: `relation "app.bootlock_once" does not exist`}

func mockExec(mock sqlmock.Sqlmock, expression string, rows int64, err error) {
	mock.ExpectExec(expression).WillReturnResult(sqlmock.NewResult(0, rows)).WillReturnError(err)
}

// seenByDriver is the order in which the driver is called: a panic of the
// user's function is none of its business.
func (row mockedRow) seenByDriver() string {
	if row.panics {
		return strings.NewReplacer("bootstrap!", "bootstrap", "migrate!", "migrate").Replace(row.order)
	}
	return row.order
}

// driverOrder tells a driver's calls in the words of locktrace. It sees release
// as a connection that goes back to the pool, or is closed while it is out.
func driverOrder(calls []recdriver.Call) string {
	var steps []string
	out := map[int]bool{}
	for _, c := range calls {
		step := string(c.Kind)
		switch c.Kind {
		case recdriver.Connect, recdriver.Take:
			step = "connect"
			out[c.Conn] = c.Err == nil
		case recdriver.Exec:
			step = statementStep(c.Query)
		case recdriver.Release, recdriver.Close:
			if !out[c.Conn] {
				continue
			}
			step = "release"
			out[c.Conn] = false
			c.Err = nil
		}
		if c.Err != nil && !errors.Is(c.Err, errNoTable) {
			step += "!"
		}
		steps = append(steps, step)
	}
	order := strings.Join(steps, " > ")
	// The connections of migrate and of the questions are their own business, and so is
	// how many statements a step sends.
	order = regexp.MustCompile(`connect > (migrate!?|(?:up to date > )*up to date!?) > release`).ReplaceAllString(order, "$1")
	return regexp.MustCompile(`(?:(up to date|record) > )+(up to date|record)`).ReplaceAllString(order, "$2")
}

func statementStep(query string) string {
	for text, step := range map[string]locktrace.Step{
		"advisory_xact_lock":                       locktrace.Lock,
		"CREATE SCHEMA":                            locktrace.CreateSchema,
		"SELECT 1 FROM pg_catalog.pg_namespace":    locktrace.Look,
		`SELECT 1 FROM "app".bootlock_once`:        locktrace.UpToDate,
		"has_table_privilege(c.oid, 'SELECT')":     locktrace.UpToDate,
		"has_table_privilege(c.oid, 'INSERT') AND": locktrace.UpToDate,
		"INSERT INTO":                              locktrace.Record,
		sqlBootstrap:                               locktrace.Bootstrap,
		sqlMigrate:                                 locktrace.Migrate,
	} {
		if strings.Contains(query, text) {
			return string(step)
		}
	}
	if strings.HasSuffix(query, "has_table_privilege(c.oid, 'INSERT')") {
		return string(locktrace.Record)
	}
	return "unexpected " + query
}

func recovered(fn func()) (value any) {
	defer func() { value = recover() }()
	fn()
	return nil
}

// A mock that promises less than what is sent is a failure, and so is one that
// promises more: the witness that the table relies on can say no.
func TestOrderOfCallsIsSeenToFail(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]mockedRow{
		"one step less": {order: "connect > begin > create schema > commit > release > migrate"},
		"one step more": {order: "connect > begin > lock > create schema > bootstrap > commit > release > migrate"},
		"other order":   {order: "connect > begin > create schema > lock > commit > release > migrate"},
	} {
		t.Run(name, func(t *testing.T) {
			db, mock, driver := row.open(t)
			if err := row.ensure(t.Context(), db, &locktrace.Recorder{}); err == nil && mock.ExpectationsWereMet() == nil {
				t.Error("neither Ensure nor sqlmock complains")
			}
			if got := driverOrder(driver.Calls()); got == row.order {
				t.Errorf("the driver saw %s", got)
			}
		})
	}
}

// The same for package advisorylock, whose order is the core of the other.
func TestOrderOfXactLock(t *testing.T) {
	t.Parallel()
	db, mock, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mock.ExpectBegin()
	mockExec(mock, `SELECT pg_catalog\.pg_advisory_xact_lock\(42\)`, 0, nil) // as for a function that returns nothing
	mockExec(mock, "^"+regexp.QuoteMeta(sqlBootstrap)+"$", 0, nil)
	mock.ExpectCommit()

	var rec locktrace.Recorder
	if err := (advisorylock.Locker{Trace: rec.Trace()}).WithXactLock(t.Context(), db, 42, mockedBootstrap); err != nil {
		t.Fatal(err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
	if got, want := rec.String(), "connect > begin > lock > commit > release"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}
