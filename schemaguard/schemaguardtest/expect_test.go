//go:build go1.25

package schemaguardtest_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/mocked"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/schemaguard/schemaguardtest"
)

// matchers are those of sqlmock, whose default is the first, and a user's own, which
// takes no regular expression.
var matchers = map[string]sqlmock.QueryMatcher{
	"regexp": nil, "equal": sqlmock.QueryMatcherEqual,
	"own": sqlmock.QueryMatcherFunc(func(expected, actual string) error {
		if !strings.EqualFold(expected, actual) {
			return errors.New("different")
		}
		return nil
	}),
}

// newMock returns a mock that is checked when the test ends.
func newMock(t *testing.T, matcher sqlmock.QueryMatcher) (*sql.DB, sqlmock.Sqlmock) {
	t.Helper()
	db, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(matcher))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, mock
}

const (
	sqlBoot    = "CREATE TABLE IF NOT EXISTS app.migrations (version int)"
	sqlAsk     = "SELECT 1 FROM app.migrations WHERE version = $1"
	sqlMigrate = "ALTER TABLE app.t ADD COLUMN IF NOT EXISTS x int"
)

func bootstrap(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, sqlBoot)
	return err
}

func upToDate(ctx context.Context, db *sql.DB) (done bool, err error) {
	res, err := db.ExecContext(ctx, sqlAsk, 3)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func migrate(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, sqlMigrate)
	return err
}

var once = schemaguard.Guard{Once: "v1"}

// mockCase is a mock of one kind, and what is peculiar to that.
type mockCase struct {
	db      *sql.DB
	mock    sqlmock.Sqlmock
	matcher sqlmock.QueryMatcher // if it is one of the user's own
	quote   func(string) string
}

// eachMock runs test with every matcher, in order and in any order.
func eachMock(t *testing.T, name string, test func(t *testing.T, m *mockCase)) {
	t.Helper()
	for kind, matcher := range matchers {
		for _, ordered := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%s/ordered=%t", name, kind, ordered), func(t *testing.T) {
				t.Parallel()
				m := &mockCase{quote: regexp.QuoteMeta}
				m.db, m.mock = newMock(t, matcher)
				m.mock.MatchExpectationsInOrder(ordered)
				if kind != "regexp" {
					m.quote = func(query string) string { return query }
				}
				if kind == "own" {
					m.matcher = matcher
				}
				test(t, m)
			})
		}
	}
}

// play returns scene with what bootstrap, upToDate and migrate send; answers are those
// of upToDate.
func (m *mockCase) play(scene schemaguardtest.Scene, answers []bool) schemaguardtest.Scene {
	exec := func(query string, rows int64, fails bool) *sqlmock.ExpectedExec {
		e := m.mock.ExpectExec(m.quote(query)).WillReturnResult(sqlmock.NewResult(0, rows))
		if fails {
			e.WillReturnError(scene.Err)
		}
		return e
	}
	asked := 0
	scene.Matcher = m.matcher
	scene.Bootstrap = func(sqlmock.Sqlmock) { exec(sqlBoot, 0, scene.Fail == locktrace.Bootstrap) }
	scene.Migrate = func(sqlmock.Sqlmock) { exec(sqlMigrate, 0, scene.Fail == locktrace.Migrate) }
	scene.UpToDate = func(sqlmock.Sqlmock) bool {
		done, rows := answers[asked], int64(0)
		if done {
			rows = 1
		}
		exec(sqlAsk, rows, scene.Fail == locktrace.UpToDate && asked == scene.FailAfter).WithArgs(3)
		asked++
		return done
	}
	return scene
}

// run checks that the order of scene is the one wanted, that Ensure then sends what is
// expected, and that it fails if the scene does.
func (m *mockCase) run(t *testing.T, guard schemaguard.Guard, schema string, scene schemaguardtest.Scene, answers []bool, order string) {
	t.Helper()
	if scene.Fail != "" && scene.Err == nil {
		scene.Err = errors.New("boom")
	}
	if got := schemaguardtest.ExpectGuard(m.mock, guard, schema, m.play(scene, answers)); got != order {
		t.Errorf("returned order\ngot  %s\nwant %s", got, order)
	}
	var rec locktrace.Recorder
	guard.Trace = rec.Trace()
	err := guard.Ensure(t.Context(), m.db, schema, migrate)
	if err := m.mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
	schemaguardtest.CheckOrder(t, &rec, order)
	if strings.HasSuffix(order, " > migrate") || scene.Fail == "" { // or Ensure went on
		if err != nil {
			t.Errorf("got error %v; want none", err)
		}
		return
	}
	at := scene.Fail
	if at == locktrace.Commit && scene.FailAfter == 1 {
		at = locktrace.Migrate // the lock's commit is the end of that
	}
	var failed *locktrace.StepError
	if !errors.As(err, &failed) || failed.Step != at || !errors.Is(err, scene.Err) {
		t.Errorf("got error %v; want one at %q, because of %v", err, at, scene.Err)
	}
}

// ExpectGuard expects exactly what Ensure sends, in every mode and for every matcher:
// Ensure accepts the answers, and no expectation is left over. The orders are those of
// the table in the docs, as far as that goes.
func TestExpectGuard(t *testing.T) {
	t.Parallel()
	const (
		creating     = "connect > begin > lock > create schema"
		committed    = creating + " > commit > release"
		booted       = creating + " > bootstrap > commit > release"
		leased       = " > connect > begin > lock > migrate > commit > release"
		refused      = creating + "! > rollback > release > connect > look > release"
		onceMigrates = " > connect > begin > lock > up to date > migrate > record > commit > release"
	)
	fail := func(step locktrace.Step, after int) schemaguardtest.Scene {
		return schemaguardtest.Scene{Fail: step, FailAfter: after}
	}
	denied := recdriver.SQLError{Code: "42501", Message: "permission denied for database"}
	clash := recdriver.SQLError{Code: "23505", Constraint: "pg_namespace_nspname_index"}
	serialize, booting := schemaguard.Guard{Serialize: true}, schemaguard.Guard{Bootstrap: bootstrap}
	skip, asks := schemaguard.Guard{SkipIfExists: true}, schemaguard.Guard{UpToDate: upToDate}
	there := schemaguardtest.Scene{Exists: true}
	docs := ordersInTheDocs(t)
	for name, test := range map[string]struct {
		guard   schemaguard.Guard
		scene   schemaguardtest.Scene
		answers []bool // of UpToDate
		order   string // if it is not in the docs
	}{
		"`Once`, the row is there at the start":       {guard: once, scene: schemaguardtest.Scene{Ran: true}},
		"`Once`, this process migrates":               {guard: once},
		"`Once`, another build has migrated before":   {guard: once, scene: there},
		"`Once`, another process has migrated":        {guard: once, scene: schemaguardtest.Scene{RanMeanwhile: true}},
		"`Once`, migrate fails":                       {guard: once, scene: fail(locktrace.Migrate, 0)},
		"`Once`, the row cannot be written":           {guard: once, scene: fail(locktrace.Record, 0)},
		"`Ensure`":                                    {},
		"`Bootstrap`":                                 {guard: booting},
		"`SkipIfExists`, the schema exists":           {guard: skip, scene: there},
		"`SkipIfExists`, it does not":                 {guard: skip},
		"`Migrate`, `Serialize`":                      {guard: serialize},
		"`UpToDate`, true at the start":               {guard: asks, answers: []bool{true}},
		"`UpToDate`, this process migrates":           {guard: asks, answers: []bool{false, false}},
		"`UpToDate`, another process has migrated":    {guard: asks, answers: []bool{false, true}},
		"begin fails":                                 {scene: fail(locktrace.Begin, 0)},
		"lock fails":                                  {scene: fail(locktrace.Lock, 0)},
		"create schema fails":                         {scene: fail(locktrace.CreateSchema, 0)},
		"`Bootstrap` fails":                           {guard: booting, scene: fail(locktrace.Bootstrap, 0)},
		"commit fails":                                {scene: fail(locktrace.Commit, 0)},
		"`SkipIfExists`, the look fails":              {guard: skip, scene: fail(locktrace.Look, 0)},
		"migrate fails":                               {scene: fail(locktrace.Migrate, 0)},
		"`Serialize`, begin of migrate's lock fails":  {guard: serialize, scene: fail(locktrace.Begin, 1)},
		"`Serialize`, migrate's lock fails":           {guard: serialize, scene: fail(locktrace.Lock, 1)},
		"`Serialize`, migrate fails":                  {guard: serialize, scene: fail(locktrace.Migrate, 0)},
		"`Serialize`, commit of migrate's lock fails": {guard: serialize, scene: fail(locktrace.Commit, 1)},
		"`UpToDate` fails at the start":               {guard: asks, scene: fail(locktrace.UpToDate, 0), answers: []bool{false}},
		"`UpToDate` fails under the lock":             {guard: asks, scene: fail(locktrace.UpToDate, 1), answers: []bool{false, false}},

		"options":            {schemaguard.Guard{Owner: "the (owner)", Key: -1 << 63, TTL: time.Minute}, schemaguardtest.Scene{}, nil, committed + " > migrate"},
		"serialize, options": {schemaguard.Guard{Serialize: true, Key: 7, TTL: time.Hour, Owner: "bob"}, schemaguardtest.Scene{}, nil, committed + leased},
		"skip, serialize":    {schemaguard.Guard{SkipIfExists: true, Serialize: true, Bootstrap: bootstrap}, there, nil, "connect > look > release" + leased},
		"up to date, bootstrap": {
			schemaguard.Guard{UpToDate: upToDate, Bootstrap: bootstrap},
			schemaguardtest.Scene{},
			[]bool{false, false},
			"up to date > " + booted + " > connect > begin > lock > up to date > migrate > commit > release",
		},
		"once, by another, there": {
			once, schemaguardtest.Scene{Exists: true, RanMeanwhile: true}, nil, "up to date > connect > begin > lock > up to date > commit > release",
		},
		"once, options": {
			schemaguard.Guard{Once: "v2 (x)", Owner: "bob", Bootstrap: bootstrap, TTL: time.Hour, SkipIfExists: true},
			schemaguardtest.Scene{},
			nil,
			"up to date > " + booted + onceMigrates,
		},

		"once, up to date fails":                {once, fail(locktrace.UpToDate, 0), nil, "up to date!"},
		"once, up to date fails under the lock": {once, fail(locktrace.UpToDate, 1), nil, "up to date > " + committed + " > connect > begin > lock > up to date! > rollback > release"},
		"once, commit fails":                    {once, fail(locktrace.Commit, 1), nil, "up to date > " + committed + " > connect > begin > lock > up to date > migrate > record > commit! > release"},
		"once, lock fails":                      {once, fail(locktrace.Lock, 1), nil, "up to date > " + committed + " > connect > begin > lock! > rollback > release"},
		"bootstrap and serialize, commit fails": {schemaguard.Guard{Serialize: true, Bootstrap: bootstrap}, fail(locktrace.Commit, 0), nil, creating + " > bootstrap > commit! > release"},

		// An error may mean something to Ensure.
		"denied, there":     {schemaguard.Guard{}, schemaguardtest.Scene{Fail: locktrace.CreateSchema, Err: denied, Exists: true}, nil, refused + " > migrate"},
		"denied, not there": {schemaguard.Guard{}, schemaguardtest.Scene{Fail: locktrace.CreateSchema, Err: denied}, nil, refused},
		"clash": {
			schemaguard.Guard{}, schemaguardtest.Scene{Fail: locktrace.CreateSchema, Err: clash}, nil, creating + "! > rollback > release > " + committed + " > migrate",
		},
	} {
		if test.order == "" {
			test.order = docs[name]
			delete(docs, name)
		}
		eachMock(t, name, func(t *testing.T, m *mockCase) {
			m.run(t, test.guard, `a.b "(c)" $d+ [e]\f'  *|^`, test.scene, test.answers, test.order)
		})
	}
	for name := range docs {
		t.Errorf("row %q of the docs is not checked here", name)
	}
}

// ordersInTheDocs returns the table of the docs, by the first column.
func ordersInTheDocs(t *testing.T) map[string]string {
	t.Helper()
	docs, err := os.ReadFile("../../docs/how-it-works.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(docs), "\n## The order, option by option\n")
	table, _, _ = strings.Cut(table, "\n## ")
	orders := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| ([^|]+) \\| `([^|`]+)` \\|$").FindAllStringSubmatch(table, -1) {
		orders[row[1]] = row[2]
	}
	return orders
}

// A test that waits for a failure that cannot come would prove nothing.
func TestExpectGuardPanics(t *testing.T) {
	t.Parallel()
	for _, scene := range []schemaguardtest.Scene{
		{Fail: locktrace.Connect},
		{Fail: locktrace.Release},
		{Fail: locktrace.Rollback},
		{Fail: locktrace.Look},
		{Fail: locktrace.UpToDate},
		{Fail: "typo"},
		{Fail: locktrace.Lock, FailAfter: 1},
	} {
		_, mock := newMock(t, nil)
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "schemaguardtest: Scene.Fail: ") {
					t.Errorf("%q: got panic %s; want one that names the field", scene.Fail, got)
				}
			}()
			schemaguardtest.ExpectGuard(mock, schemaguard.Guard{}, "app", scene)
		}()
	}
}

// Code that does something else than what is expected must not pass.
func TestExpectationsAreSeenToFail(t *testing.T) {
	t.Parallel()
	type start = func(ctx context.Context, db *sql.DB) error
	ensure := func(guard schemaguard.Guard, schema string) start {
		return func(ctx context.Context, db *sql.DB) error { return guard.Ensure(ctx, db, schema, nil) }
	}
	for name, start := range map[string]start{
		"nothing":        nothing,
		"another schema": ensure(schemaguard.Guard{}, "other"),
		"a longer name":  ensure(schemaguard.Guard{}, "app2"),
		"another owner":  ensure(schemaguard.Guard{Owner: "bob"}, "app"),
		"another key":    ensure(schemaguard.Guard{Key: 1}, "app"),
		"a look before":  ensure(schemaguard.Guard{SkipIfExists: true}, "app"),
		"no guard": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS "app"`)
			return err
		},
	} {
		for kind, matcher := range matchers {
			if kind == "own" {
				continue
			}
			db, mock := newMock(t, matcher)
			schemaguardtest.ExpectEnsure(mock, "app")
			err := start(t.Context(), db)
			if err == nil && mock.ExpectationsWereMet() == nil {
				t.Errorf("%s, %s: neither Ensure nor the mock complains", name, kind)
			}
			if errors.As(err, new(*locktrace.StepError)) && !strings.Contains(err.Error(), "schemaguardtest.ExpectGuard has the expectations") {
				t.Errorf("%s, %s: got %v; want it to say what to do", name, kind, err)
			}
		}
	}
}

// The guard's own functions and its trace are for the code under test, and what Ensure
// refuses it sends nothing of. The default error says which step it is of.
func TestExpectGuardCallsNothingOfTheGuards(t *testing.T) {
	t.Parallel()
	db, mock := newMock(t, nil)
	var rec locktrace.Recorder
	guard := schemaguard.Guard{
		Trace:     rec.Trace(),
		Bootstrap: func(context.Context, *sql.Tx) error { t.Error("Bootstrap was called"); return nil },
		UpToDate:  func(context.Context, *sql.DB) (bool, error) { t.Error("UpToDate was called"); return false, nil },
	}
	schemaguardtest.ExpectGuard(mock, guard, "pg_app", schemaguardtest.Scene{})
	schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{Fail: locktrace.Begin})
	if got := rec.String(); got != "" {
		t.Errorf("traced %s", got)
	}
	if err := schemaguard.Ensure(t.Context(), db, "pg_app", nil); err == nil {
		t.Error("got no error")
	}
	err := schemaguard.Ensure(t.Context(), db, "app", nil)
	if want := "schemaguardtest: begin fails"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v; want %q in it", err, want)
	}
}

// With a LockDB, what the guard sends is for its mock, and what the user's functions
// send for the other one.
func TestExpectGuardWithLockDB(t *testing.T) {
	t.Parallel()
	db, mock := newMock(t, nil)
	lockDB, lockMock := newMock(t, nil)
	guard := schemaguard.Guard{Once: "v1", LockDB: lockDB}
	order := schemaguardtest.ExpectGuard(lockMock, guard, "app", schemaguardtest.Scene{Migrate: func(sqlmock.Sqlmock) {
		mock.ExpectExec("ALTER TABLE").WillReturnResult(sqlmock.NewResult(0, 0))
	}})
	var rec locktrace.Recorder
	guard.Trace = rec.Trace()
	if err := guard.Ensure(t.Context(), db, "app", migrate); err != nil {
		t.Error(err)
	}
	schemaguardtest.CheckOrder(t, &rec, order)
	if err := errors.Join(mock.ExpectationsWereMet(), lockMock.ExpectationsWereMet()); err != nil {
		t.Error(err)
	}
}

// A mock in a wrapper is one when the test says so. Pools that are none are not taken
// for one: code that behaves otherwise with a mock must not do so with a server.
func TestMock(t *testing.T) {
	t.Parallel()
	start := func(told bool) error {
		name := fmt.Sprint(t.Name(), told)
		plain, mock, err := sqlmock.NewWithDSN(name)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		db := sql.OpenDB(wrapper{plain.Driver(), name})
		defer db.Close()
		if told {
			defer schemaguardtest.Mock(db)()
		}
		schemaguardtest.ExpectGuard(mock, once, "app", schemaguardtest.Scene{})
		return errors.Join(once.Ensure(t.Context(), db, "app", nothing), mock.ExpectationsWereMet())
	}
	if err := start(true); err != nil {
		t.Error(err)
	}
	if err := start(false); err == nil {
		t.Error("got no error; want one, since nobody can know this mock: else Mock is of no use")
	}
	db, _ := newMock(t, nil)
	other := recdriver.New().OpenDB()
	defer other.Close()
	schemaguardtest.Mock(other)() // and is forgotten
	if !mocked.Is(db) || mocked.Is(other) {
		t.Errorf("a mock is known as one: %t; another pool is: %t", mocked.Is(db), mocked.Is(other))
	}
}

// wrapper hides a driver as those of tracers do.
type wrapper struct {
	inner driver.Driver
	dsn   string
}

func (w wrapper) Connect(context.Context) (driver.Conn, error) { return w.inner.Open(w.dsn) }
func (w wrapper) Driver() driver.Driver                        { return w }
func (w wrapper) Open(name string) (driver.Conn, error)        { return w.inner.Open(name) }

func nothing(context.Context, *sql.DB) error { return nil }

// A mock that expects the end of its pool: one ExpectClose for each connection.
func TestExpectClose(t *testing.T) {
	t.Parallel()
	for conns, guard := range map[int]schemaguard.Guard{1: {}, 2: once} {
		db, mock := newMock(t, nil)
		schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{})
		for range conns {
			mock.ExpectClose()
		}
		if err := errors.Join(guard.Ensure(t.Context(), db, "app", nothing), db.Close(), mock.ExpectationsWereMet()); err != nil {
			t.Errorf("%d connections: %v", conns, err)
		}
	}
}
