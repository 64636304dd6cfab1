// Package schemaguardtest helps to test start-up code that uses package
// schemaguard.
//
//   - [ExpectEnsure] tells a sqlmock what schemaguard.Ensure sends, so that a
//     unit test of code that calls it needs no database.
//   - [ExpectGuard] does the same for a Guard with its options, Once first, and for
//     schemaguard.Migrate. A [Scene] describes what happens, a failing step included.
//   - [Mock] says that a pool is a mock where that cannot be seen.
//   - [CheckOrder] compares the order of the steps with the one expected.
//   - [Race] starts bootstrap code many times at once on a real database,
//     without and with the guard: does it lose the race, and does the guard
//     cure that?
//
// The package is for tests only: it imports go-sqlmock, which package
// schemaguard does not. It follows semantic versioning with its module.
package schemaguardtest

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"regexp"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// Scene describes what a Guard meets. In the zero Scene the schema does not
// exist yet, all goes well, and the user's own functions send nothing.
//
// Its functions are called once for each time that Ensure will call the Guard's
// function of the same name, at that place in the order. They expect what that
// function sends. Any of them may be nil.
//
// A migrate that fails is one whose last expected statement does, and the Scene
// says so in two places, the statement for the mock and Fail for the order:
//
//	Scene{
//		Migrate: func(mock sqlmock.Sqlmock) { mock.ExpectExec("ALTER TABLE").WillReturnError(err) },
//		Fail:    locktrace.Migrate,
//	}
type Scene struct {
	// Exists is what Ensure finds when it looks for the schema: with
	// SkipIfExists, and after it was refused to create it. With Once it is
	// whether the table of Once exists, without the row.
	Exists bool

	// Ran is whether the row of Once is there at the start, as at a second start.
	// RanMeanwhile is whether it is there under migrate's lock: another process
	// has migrated since the start.
	Ran, RanMeanwhile bool

	// Bootstrap expects what Guard.Bootstrap sends.
	Bootstrap func(mock sqlmock.Sqlmock)

	// UpToDate expects what Guard.UpToDate sends, and returns the answer that
	// this leads to. nil means that it sends nothing and answers false.
	UpToDate func(mock sqlmock.Sqlmock) bool

	// Migrate expects what migrate sends.
	Migrate func(mock sqlmock.Sqlmock)

	// Fail is a step that fails; empty means none. Ensure does what it does
	// after such a failure: it rolls back and releases, and for some errors it
	// goes on to look for the schema or tries again. The step fails once.
	//
	// Begin, Lock, CreateSchema, Look, Record, Commit, and UpToDate of a Guard with
	// Once, fail by an answer of the mock. Bootstrap, Migrate and a Guard's own
	// UpToDate are the user's: let the Scene's function expect a statement that
	// fails. Connect, Release and Rollback cannot be chosen: sqlmock sees neither of
	// the first two, and the last comes only after another failure.
	Fail locktrace.Step

	// FailAfter is how many times the step succeeds first. With Once, UpToDate or
	// Serialize, begin, lock and commit come twice: 0 stands for those of the
	// schema and 1 for those of migrate's lock.
	FailAfter int

	// Err is the error of the step that fails. nil means an error that says
	// which step it is of. Ensure's error wraps it.
	Err error

	// Matcher is the matcher that the mock was made with, if it is one of the
	// user's own. The two of sqlmock are recognized.
	Matcher sqlmock.QueryMatcher
}

// ExpectEnsure expects what schemaguard.Ensure sends for schema, up to where it
// calls migrate, and returns the order of its steps. It is ExpectGuard with the
// zero Guard and the zero Scene.
func ExpectEnsure(mock sqlmock.Sqlmock, schema string) (order string) {
	return ExpectGuard(mock, schemaguard.Guard{}, schema, Scene{})
}

// ExpectGuard expects what guard's Ensure sends for schema while no other process
// has its locks, and returns the order of the steps as a [locktrace.Recorder] will
// show it; see [CheckOrder]. guard is the Guard of the code under test, which is
// Guard{Serialize: true} for schemaguard.Migrate. Its
// functions are not called: the Scene speaks for them.
//
// The statements are those of the very version of package schemaguard that the
// test is built with. They suit both of sqlmock's matchers, regular expressions
// and QueryMatcherEqual, and expectations in any order as well as in order. If
// Ensure refuses the name of the schema, nothing is expected.
//
// The heartbeats that keep migrate's lock on a server are not sent to a mock,
// however long a test takes, and neither is the statement by which a process makes
// sure of a connection for migrate.
//
// If guard has a LockDB, mock is the one of that. migrate and a Guard's own
// UpToDate send to the other pool, so let the Scene's functions expect that of its
// mock. A mock that expects db.Close needs one ExpectClose for each connection that
// its pool opened: sqlmock counts connections, and Once, UpToDate and Serialize use
// two at a time.
//
// ExpectGuard panics if the step that should fail does not come.
func ExpectGuard(mock sqlmock.Sqlmock, guard schemaguard.Guard, schema string, scene Scene) (order string) {
	p := player{mock: mock, scene: scene}
	if p.scene.Matcher == nil {
		p.scene.Matcher = matcherOf(mock)
	}
	if p.scene.Err == nil {
		p.scene.Err = fmt.Errorf("schemaguardtest: %s fails", scene.Fail)
	}
	p.play(guard, schema)
	if scene.Fail != "" && !p.failed {
		panic(fmt.Sprintf("schemaguardtest: Scene.Fail: %q does not come %d times, or cannot be made to fail", scene.Fail, scene.FailAfter+1))
	}
	return p.steps.String()
}

// player runs a guard on a fake server, and expects of the mock whatever is
// sent to that, so that no statement has to be written down here again.
type player struct {
	mock  sqlmock.Sqlmock
	scene Scene

	steps  locktrace.Recorder
	ask    string // the statement that asks for the row of Once
	asked  int    // how many times it came
	rows   int64  // how many the statement under way affects
	came   int    // how many times the step that should fail has come
	failed bool
}

// stepKey is where the step under way is in the context of what it sends. A
// heartbeat, which only a very slow machine has time for, is in no step.
type stepKey struct{}

func (p *player) play(guard schemaguard.Guard, schema string) {
	guard.LockDB = nil // what goes to it goes to the one pool here
	guard.Trace = p.steps.Trace()
	guard.Trace.Start = func(ctx context.Context, e locktrace.Event) context.Context {
		return context.WithValue(ctx, stepKey{}, e.Step)
	}
	if guard.Bootstrap != nil {
		guard.Bootstrap = func(context.Context, *sql.Tx) error {
			call(p.scene.Bootstrap, p.mock)
			return p.fail(locktrace.Bootstrap)
		}
	}
	if guard.UpToDate != nil {
		guard.UpToDate = func(context.Context, *sql.DB) (bool, error) {
			done := p.scene.UpToDate != nil && p.scene.UpToDate(p.mock)
			return done, p.fail(locktrace.UpToDate)
		}
	}
	driver := recdriver.New()
	driver.OnCall(p.expect)
	driver.OnExec(func(recdriver.Call) (int64, error) { return p.rows, nil })
	db := driver.OpenDB()
	defer Mock(db)()
	defer db.Close()
	_ = guard.Ensure(context.Background(), db, schema, func(context.Context, *sql.DB) error {
		call(p.scene.Migrate, p.mock)
		return p.fail(locktrace.Migrate)
	})
}

func call(fn func(sqlmock.Sqlmock), mock sqlmock.Sqlmock) {
	if fn != nil {
		fn(mock)
	}
}

// fail returns the scene's error if step is to fail now.
func (p *player) fail(step locktrace.Step) error {
	if p.failed || step != p.scene.Fail {
		return nil
	}
	p.came++
	p.failed = p.came > p.scene.FailAfter
	if !p.failed {
		return nil
	}
	return p.scene.Err
}

// expect is called for each call that the fake server gets.
func (p *player) expect(ctx context.Context, c *recdriver.Call) (err error) {
	switch c.Kind {
	case recdriver.Begin:
		err = p.fail(locktrace.Begin)
		p.mock.ExpectBegin().WillReturnError(err)
	case recdriver.Commit:
		err = p.fail(locktrace.Commit)
		p.mock.ExpectCommit().WillReturnError(err)
	case recdriver.Rollback:
		p.mock.ExpectRollback()
	case recdriver.Exec:
		step, inStep := ctx.Value(stepKey{}).(locktrace.Step)
		if !inStep {
			return nil
		}
		if step == locktrace.UpToDate && p.ask == "" {
			p.ask = c.Query
		}
		if err = p.fail(step); err == nil {
			p.rows, err = p.answer(step, c.Query)
		}
		p.mock.ExpectExec(p.quote(c.Query)).WillReturnResult(sqlmock.NewResult(0, p.rows)).WillReturnError(err)
	}
	return err
}

// errNoTable is what asking for the row of Once comes to before there is a table.
var errNoTable = recdriver.SQLError{Code: "42P01", Message: `relation "bootlock_once" does not exist`}

// answer is how many rows query affects: one for a lock that is granted, one for a look
// if the schema is there, and one for the row of Once if that is.
func (p *player) answer(step locktrace.Step, query string) (rows int64, err error) {
	switch {
	case step == locktrace.Look && !p.scene.Exists:
		return 0, nil
	case query != p.ask:
		return 1, nil
	}
	p.asked++
	switch {
	case p.scene.Ran, p.asked > 1 && p.scene.RanMeanwhile:
		return 1, nil
	case p.asked == 1 && !p.scene.Exists:
		return 0, errNoTable
	}
	return 0, nil
}

// quote returns what to expect, in the form that the matcher takes for query.
func (p *player) quote(query string) string {
	expression := "^" + regexp.QuoteMeta(query) + "$"
	if p.scene.Matcher.Match(expression, query) == nil {
		return expression
	}
	return query
}

// matcherOf tells which of sqlmock's matchers mock was made with. It has no
// method to ask for it, and no text satisfies both: as an expression, the
// parentheses of a statement do not match themselves.
func matcherOf(mock sqlmock.Sqlmock) sqlmock.QueryMatcher {
	v := reflect.Indirect(reflect.ValueOf(mock))
	if v.Kind() != reflect.Struct {
		return sqlmock.QueryMatcherRegexp
	}
	matcher := v.FieldByName("queryMatcher")
	if matcher.Kind() == reflect.Interface && matcher.Elem().Kind() == reflect.Func &&
		matcher.Elem().Pointer() == reflect.ValueOf(sqlmock.QueryMatcherEqual).Pointer() {
		return sqlmock.QueryMatcherEqual
	}
	return sqlmock.QueryMatcherRegexp
}
