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
	"slices"
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

// ignoreCase is a matcher of a user's own, which takes no regular expression.
var ignoreCase = sqlmock.QueryMatcherFunc(func(expected, actual string) error {
	if !strings.EqualFold(expected, actual) {
		return errors.New("different")
	}
	return nil
})

var matchers = map[string]sqlmock.QueryMatcher{
	"default": nil, "regexp": sqlmock.QueryMatcherRegexp, "equal": sqlmock.QueryMatcherEqual, "own": ignoreCase,
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

// scene expects what bootstrap, upToDate and migrate send; answers are those of
// upToDate.
func (m *mockCase) scene(answers ...bool) schemaguardtest.Scene {
	asked := 0
	exec := func(mock sqlmock.Sqlmock, query string, rows int64, fails bool) *sqlmock.ExpectedExec {
		e := mock.ExpectExec(m.quote(query)).WillReturnResult(sqlmock.NewResult(0, rows))
		if fails {
			e.WillReturnError(m.fail)
		}
		return e
	}
	return schemaguardtest.Scene{
		Matcher:   m.matcher,
		Bootstrap: func(mock sqlmock.Sqlmock) { exec(mock, sqlBoot, 0, m.failing == "bootstrap") },
		Migrate:   func(mock sqlmock.Sqlmock) { exec(mock, sqlMigrate, 0, m.failing == "migrate") },
		UpToDate: func(mock sqlmock.Sqlmock) bool {
			done, rows := answers[asked], int64(0)
			if done {
				rows = 1
			}
			exec(mock, sqlAsk, rows, m.failing == "up to date" && asked == m.after).WithArgs(3)
			asked++
			return done
		},
	}
}

// What is expected is exactly what Ensure sends, in every mode and for every
// matcher: Ensure is content with the answers, and nothing is left over.
func TestExpectGuard(t *testing.T) {
	t.Parallel()
	const (
		committed    = "connect > begin > lock > create schema > commit > release"
		onceMigrates = " > connect > begin > lock > up to date > migrate > record > commit > release"
	)
	none, there := schemaguardtest.Scene{}, schemaguardtest.Scene{Exists: true}
	for name, test := range map[string]struct {
		guard   schemaguard.Guard
		scene   schemaguardtest.Scene
		answers []bool // of UpToDate
		order   string
	}{
		"zero":               {schemaguard.Guard{}, none, nil, committed + " > migrate"},
		"zero, there":        {schemaguard.Guard{}, there, nil, committed + " > migrate"},
		"owner":              {schemaguard.Guard{Owner: "the (owner)"}, none, nil, committed + " > migrate"},
		"key":                {schemaguard.Guard{Key: -1 << 63}, none, nil, committed + " > migrate"},
		"ttl":                {schemaguard.Guard{TTL: time.Minute}, none, nil, committed + " > migrate"},
		"bootstrap":          {schemaguard.Guard{Bootstrap: bootstrap}, none, nil, "connect > begin > lock > create schema > bootstrap > commit > release > migrate"},
		"skip, there":        {schemaguard.Guard{SkipIfExists: true, Bootstrap: bootstrap}, there, nil, "connect > look > release > migrate"},
		"skip, not there":    {schemaguard.Guard{SkipIfExists: true}, none, nil, "connect > look > release > " + committed + " > migrate"},
		"serialize":          {schemaguard.Guard{Serialize: true}, none, nil, committed + " > connect > begin > lock > migrate > commit > release"},
		"serialize, options": {schemaguard.Guard{Serialize: true, Key: 7, TTL: time.Hour, Owner: "bob"}, none, nil, committed + " > connect > begin > lock > migrate > commit > release"},
		"skip, serialize":    {schemaguard.Guard{SkipIfExists: true, Serialize: true}, there, nil, "connect > look > release > connect > begin > lock > migrate > commit > release"},

		"up to date":             {schemaguard.Guard{UpToDate: upToDate}, none, []bool{true}, "up to date"},
		"up to date, bootstrap":  {schemaguard.Guard{UpToDate: upToDate, Bootstrap: bootstrap}, none, []bool{false, false}, "up to date > connect > begin > lock > create schema > bootstrap > commit > release > connect > begin > lock > up to date > migrate > commit > release"},
		"up to date, by another": {schemaguard.Guard{UpToDate: upToDate}, none, []bool{false, true}, "up to date > " + committed + " > connect > begin > lock > up to date > commit > release"},

		"once":             {once, none, nil, "up to date > " + committed + onceMigrates},
		"once, again":      {once, schemaguardtest.Scene{Ran: true}, nil, "up to date"},
		"once, there":      {once, there, nil, "up to date" + onceMigrates},
		"once, by another": {once, schemaguardtest.Scene{RanMeanwhile: true}, nil, "up to date > " + committed + " > connect > begin > lock > up to date > commit > release"},
		"once, by another, there": {
			once, schemaguardtest.Scene{Exists: true, RanMeanwhile: true}, nil, "up to date > connect > begin > lock > up to date > commit > release",
		},
		"once, options": {
			schemaguard.Guard{Once: "v2 (x)", Owner: "bob", Bootstrap: bootstrap, TTL: time.Hour, SkipIfExists: true},
			none, nil,
			"up to date > connect > begin > lock > create schema > bootstrap > commit > release" + onceMigrates,
		},
	} {
		eachMock(t, name, func(t *testing.T, m *mockCase) {
			const schema = `a.b "(c)" $d+ [e]\f'  *|^`
			play := m.scene(test.answers...)
			play.Exists, play.Ran, play.RanMeanwhile = test.scene.Exists, test.scene.Ran, test.scene.RanMeanwhile
			if got := schemaguardtest.ExpectGuard(m.mock, test.guard, schema, play); got != test.order {
				t.Errorf("returned order\ngot  %s\nwant %s", got, test.order)
			}
			if err := m.ensure(t, test.guard, schema, test.order); err != nil {
				t.Error(err)
			}
		})
	}
}

// mockCase is a mock of one kind, and what is peculiar to that.
type mockCase struct {
	db      *sql.DB
	mock    sqlmock.Sqlmock
	matcher sqlmock.QueryMatcher // if it is one of the user's own
	quote   func(string) string
	fail    error  // of what the user's own function sends
	failing string // which function that is
	after   int    // how many times it succeeds first
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
				if kind == "equal" || kind == "own" {
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

// ensure runs guard on the mock, whose expectations must be met, in the order
// that is wanted.
func (m *mockCase) ensure(t *testing.T, guard schemaguard.Guard, schema, order string) error {
	t.Helper()
	var rec locktrace.Recorder
	guard.Trace = rec.Trace()
	err := guard.Ensure(t.Context(), m.db, schema, migrate)
	if err := m.mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
	schemaguardtest.CheckOrder(t, &rec, order)
	return err
}

// Each step that can fail, in every mode, each time that it comes: Ensure fails
// with the error, and what is expected and returned is what it then does.
func TestExpectGuardFails(t *testing.T) {
	t.Parallel()
	tried := 0
	for name, test := range map[string]struct {
		guard   schemaguard.Guard
		answers []bool
	}{
		"zero":                {schemaguard.Guard{}, nil},
		"bootstrap":           {schemaguard.Guard{Bootstrap: bootstrap, Owner: "bob"}, nil},
		"skip":                {schemaguard.Guard{SkipIfExists: true}, nil},
		"serialize":           {schemaguard.Guard{Serialize: true}, nil},
		"serialize, options":  {schemaguard.Guard{Serialize: true, SkipIfExists: true, Bootstrap: bootstrap, Key: 7, TTL: time.Hour}, nil},
		"up to date":          {schemaguard.Guard{UpToDate: upToDate, SkipIfExists: true, Bootstrap: bootstrap}, []bool{false, false}},
		"once":                {once, nil},
		"once, with the rest": {schemaguard.Guard{Once: "v1", SkipIfExists: true, Bootstrap: bootstrap, TTL: time.Minute}, nil},
	} {
		_, mock := newMock(t, nil)
		plain := mockCase{mock: mock, quote: regexp.QuoteMeta}
		steps := strings.Split(schemaguardtest.ExpectGuard(mock, test.guard, "app", plain.scene(test.answers...)), " > ")
		came := map[string]int{}
		for i, step := range steps {
			if step == "connect" || step == "release" {
				continue
			}
			after := came[step]
			came[step]++
			tried++
			order := failing(steps, i)
			eachMock(t, fmt.Sprintf("%s/%s %d", name, step, after+1), func(t *testing.T, m *mockCase) {
				boom := errors.New("boom")
				if step != "up to date" || test.guard.Once == "" {
					m.fail, m.failing, m.after = boom, step, after
				}
				play := m.scene(test.answers...)
				play.Fail, play.FailAfter, play.Err = locktrace.Step(step), after, boom
				if got := schemaguardtest.ExpectGuard(m.mock, test.guard, "app", play); got != order {
					t.Errorf("returned order\ngot  %s\nwant %s", got, order)
				}
				if err := m.ensure(t, test.guard, "app", order); !errors.Is(err, boom) {
					t.Errorf("got error %v; want it to wrap the scene's", err)
				}
			})
		}
	}
	if tried < 50 {
		t.Errorf("%d failing steps were tried; want 50 at least", tried)
	}
}

// failing is the order of which step i fails.
func failing(steps []string, i int) string {
	order := append(slices.Clone(steps[:i]), steps[i]+"!")
	open := 0 // transactions
	for _, step := range steps[:i] {
		switch step {
		case "begin":
			open++
		case "commit":
			open--
		}
	}
	switch {
	case open > 0 && steps[i] != "commit":
		order = append(order, "rollback", "release")
	case open > 0, steps[i] == "begin", steps[i] == "look":
		order = append(order, "release")
	}
	return strings.Join(order, " > ")
}

// An error may mean something to Ensure: it looks for the schema when it was
// refused to create it, and tries again after a clash.
func TestExpectGuardFailsAndGoesOn(t *testing.T) {
	t.Parallel()
	const created = "connect > begin > lock > create schema"
	denied := recdriver.SQLError{Code: "42501", Message: "permission denied for database"}
	for name, test := range map[string]struct {
		err    error
		exists bool
		order  string
		fails  bool
	}{
		"denied, there":     {denied, true, created + "! > rollback > release > connect > look > release > migrate", false},
		"denied, not there": {denied, false, created + "! > rollback > release > connect > look > release", true},
		"clash": {
			recdriver.SQLError{Code: "23505", Constraint: "pg_namespace_nspname_index"},
			false,
			created + "! > rollback > release > " + created + " > commit > release > migrate", false,
		},
	} {
		eachMock(t, name, func(t *testing.T, m *mockCase) {
			play := m.scene()
			play.Fail, play.Err, play.Exists = locktrace.CreateSchema, test.err, test.exists
			if got := schemaguardtest.ExpectGuard(m.mock, schemaguard.Guard{}, "app", play); got != test.order {
				t.Errorf("returned order\ngot  %s\nwant %s", got, test.order)
			}
			if err := m.ensure(t, schemaguard.Guard{}, "app", test.order); (err != nil) != test.fails {
				t.Errorf("got error %v; want one: %t", err, test.fails)
			}
		})
	}
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
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "schemaguardtest: Scene.Fail: ") {
					t.Errorf("%q: got panic %s; want one that names the field", scene.Fail, got)
				}
			}()
			_, mock := newMock(t, nil)
			schemaguardtest.ExpectGuard(mock, schemaguard.Guard{}, "app", scene)
		}()
	}
}

// The table in the docs says what is true.
func TestOrdersInTheDocs(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../docs/how-it-works.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(docs), "\n## The order, option by option\n")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := regexp.MustCompile("(?m)^\\| ([^|]+) \\| `([^|`]+)` \\|$").FindAllStringSubmatch(table, -1)
	asks := schemaguard.Guard{UpToDate: upToDate}
	fail := func(step locktrace.Step, after int) schemaguardtest.Scene {
		return schemaguardtest.Scene{Fail: step, FailAfter: after}
	}
	asked := func(answers ...bool) schemaguardtest.Scene {
		return schemaguardtest.Scene{UpToDate: func(sqlmock.Sqlmock) bool {
			done := answers[0]
			answers = answers[1:]
			return done
		}}
	}
	serialize, booting := schemaguard.Guard{Serialize: true}, schemaguard.Guard{Bootstrap: bootstrap}
	skip := schemaguard.Guard{SkipIfExists: true}
	known := map[string]struct {
		guard schemaguard.Guard
		scene schemaguardtest.Scene
	}{
		"`Once`, the row is there at the start":       {once, schemaguardtest.Scene{Ran: true}},
		"`Once`, this process migrates":               {guard: once},
		"`Once`, another build has migrated before":   {once, schemaguardtest.Scene{Exists: true}},
		"`Once`, another process has migrated":        {once, schemaguardtest.Scene{RanMeanwhile: true}},
		"`Once`, migrate fails":                       {once, fail(locktrace.Migrate, 0)},
		"`Once`, the row cannot be written":           {once, fail(locktrace.Record, 0)},
		"`Ensure`":                                    {},
		"`Bootstrap`":                                 {guard: booting},
		"`SkipIfExists`, the schema exists":           {skip, schemaguardtest.Scene{Exists: true}},
		"`SkipIfExists`, it does not":                 {guard: skip},
		"`Migrate`, `Serialize`":                      {guard: serialize},
		"`UpToDate`, true at the start":               {asks, asked(true)},
		"`UpToDate`, this process migrates":           {asks, asked(false, false)},
		"`UpToDate`, another process has migrated":    {asks, asked(false, true)},
		"begin fails":                                 {scene: fail(locktrace.Begin, 0)},
		"lock fails":                                  {scene: fail(locktrace.Lock, 0)},
		"create schema fails":                         {scene: fail(locktrace.CreateSchema, 0)},
		"`Bootstrap` fails":                           {booting, fail(locktrace.Bootstrap, 0)},
		"commit fails":                                {scene: fail(locktrace.Commit, 0)},
		"`SkipIfExists`, the look fails":              {skip, fail(locktrace.Look, 0)},
		"migrate fails":                               {scene: fail(locktrace.Migrate, 0)},
		"`Serialize`, begin of migrate's lock fails":  {serialize, fail(locktrace.Begin, 1)},
		"`Serialize`, migrate's lock fails":           {serialize, fail(locktrace.Lock, 1)},
		"`Serialize`, migrate fails":                  {serialize, fail(locktrace.Migrate, 0)},
		"`Serialize`, commit of migrate's lock fails": {serialize, fail(locktrace.Commit, 1)},
		"`UpToDate` fails at the start":               {asks, fail(locktrace.UpToDate, 0)},
		"`UpToDate` fails under the lock":             {asks, fail(locktrace.UpToDate, 1)},
	}
	for _, row := range rows {
		entry, ok := known[row[1]]
		if !ok {
			t.Errorf("row %q is not checked here", row[1])
			continue
		}
		delete(known, row[1])
		_, mock := newMock(t, nil)
		if got := schemaguardtest.ExpectGuard(mock, entry.guard, "app", entry.scene); got != row[2] {
			t.Errorf("%s\ndocs %s\nis   %s", row[1], row[2], got)
		}
	}
	for name := range known {
		t.Errorf("there is no row for %q", name)
	}
}

// Code that does something else than what is expected must not pass.
func TestExpectationsAreSeenToFail(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(ctx context.Context, db *sql.DB) error{
		"nothing":        func(context.Context, *sql.DB) error { return nil },
		"another schema": func(ctx context.Context, db *sql.DB) error { return schemaguard.Ensure(ctx, db, "other", nil) },
		"a longer name":  func(ctx context.Context, db *sql.DB) error { return schemaguard.Ensure(ctx, db, "app2", nil) },
		"another owner": func(ctx context.Context, db *sql.DB) error {
			return schemaguard.Guard{Owner: "bob"}.Ensure(ctx, db, "app", nil)
		},
		"another key": func(ctx context.Context, db *sql.DB) error {
			return schemaguard.Guard{Key: 1}.Ensure(ctx, db, "app", nil)
		},
		"a look before": func(ctx context.Context, db *sql.DB) error {
			return schemaguard.Guard{SkipIfExists: true}.Ensure(ctx, db, "app", nil)
		},
		"no guard": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS "app"`)
			return err
		},
	} {
		for kind, matcher := range map[string]sqlmock.QueryMatcher{"regexp": nil, "equal": sqlmock.QueryMatcherEqual} {
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
	guard := schemaguard.Guard{Once: "v1"}
	start := func(told bool) error {
		plain, mock, err := sqlmock.NewWithDSN(fmt.Sprint(t.Name(), told))
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		db := sql.OpenDB(wrapper{plain.Driver(), fmt.Sprint(t.Name(), told)})
		defer db.Close()
		if told {
			defer schemaguardtest.Mock(db)()
		}
		schemaguardtest.ExpectGuard(mock, guard, "app", schemaguardtest.Scene{})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return errors.Join(guard.Ensure(ctx, db, "app", nothing), mock.ExpectationsWereMet())
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
	if !mocked.Is(db) || mocked.Is(other) {
		t.Errorf("a mock is known as one: %t; another pool is: %t", mocked.Is(db), mocked.Is(other))
	}
	forget := schemaguardtest.Mock(other)
	forget()
	if mocked.Is(other) {
		t.Error("a mock is not forgotten")
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
	for name, test := range map[string]struct {
		guard schemaguard.Guard
		scene schemaguardtest.Scene
		conns int
	}{
		"zero":        {schemaguard.Guard{}, schemaguardtest.Scene{}, 1},
		"serialize":   {schemaguard.Guard{Serialize: true}, schemaguardtest.Scene{}, 2},
		"once":        {once, schemaguardtest.Scene{}, 2},
		"once, again": {once, schemaguardtest.Scene{Ran: true}, 1},
		"once, fails": {once, schemaguardtest.Scene{Fail: locktrace.Commit, FailAfter: 1}, 2},
	} {
		db, mock := newMock(t, nil)
		test.scene.Migrate = func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("ALTER TABLE").WillReturnResult(sqlmock.NewResult(0, 0))
		}
		schemaguardtest.ExpectGuard(mock, test.guard, "app", test.scene)
		for range test.conns {
			mock.ExpectClose()
		}
		_ = test.guard.Ensure(t.Context(), db, "app", migrate)
		if err := errors.Join(db.Close(), mock.ExpectationsWereMet()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
