// Package schemaguardtest helps to test start-up code that uses package
// schemaguard.
//
//   - [ExpectEnsure] tells a sqlmock what schemaguard.Ensure sends, so that a
//     unit test of code that calls it needs no database.
//   - [ExpectGuard] does the same for a Guard with its options.
//   - [Race] starts bootstrap code many times at once on a real database,
//     without and with the guard: does it lose the race, and does the guard
//     cure it?
//
// It is meant for tests only: it imports go-sqlmock, which package schemaguard
// does not. The package follows semantic versioning with its module.
package schemaguardtest

import (
	"context"
	"database/sql"
	"reflect"
	"regexp"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// Scene is what a mock plays to a Guard. In the zero Scene the schema is not
// there yet, and the user's own functions send nothing.
//
// Its functions are called once for each time that Ensure will call the Guard's
// function of the same name, at that place in the order, and expect what that
// one sends. Any of them may be nil.
type Scene struct {
	// Exists is what SkipIfExists finds. Ensure looks for nothing else.
	Exists bool

	// Bootstrap expects what Guard.Bootstrap sends.
	Bootstrap func(mock sqlmock.Sqlmock)

	// UpToDate expects what Guard.UpToDate sends, and returns what that will
	// answer; nil stands for false.
	UpToDate func(mock sqlmock.Sqlmock) bool

	// Migrate expects what migrate sends. With Serialize or UpToDate that is
	// between the lock and its COMMIT, else at the end.
	Migrate func(mock sqlmock.Sqlmock)

	// Matcher is the matcher that the mock was made with, if it is one of the
	// user's own. sqlmock's two are recognised.
	Matcher sqlmock.QueryMatcher
}

// ExpectEnsure expects what schemaguard.Ensure sends for schema, up to where it
// calls migrate. It is ExpectGuard for the zero Guard and the zero Scene.
func ExpectEnsure(mock sqlmock.Sqlmock, schema string) {
	ExpectGuard(mock, schemaguard.Guard{}, schema, Scene{})
}

// ExpectGuard expects what guard's Ensure sends for schema when no other
// process is in its way. guard is the one of the code under test; its functions
// are not called, and the Scene speaks for them.
//
// The statements are right for sqlmock's regular expressions, which is its
// default, and for QueryMatcherEqual. They are those of the very version of
// package schemaguard that the test is built with. Of a name that Ensure
// refuses nothing is expected, since nothing is sent.
//
// A lease of Serialize sends a heartbeat every third of its TTL, which is not
// expected: a test should be done before the first, after ten seconds by
// default.
func ExpectGuard(mock sqlmock.Sqlmock, guard schemaguard.Guard, schema string, scene Scene) {
	p := player{mock: mock, scene: scene}
	if p.scene.Matcher == nil {
		p.scene.Matcher = matcherOf(mock)
	}
	p.play(guard, schema)
}

// player runs a guard on a fake server, and expects of the mock whatever is
// sent to that, so that no statement has to be written down here again.
type player struct {
	mock  sqlmock.Sqlmock
	scene Scene

	begun int  // transactions
	inTx  bool // one is open
	execs int  // in it
}

func (p *player) play(guard schemaguard.Guard, schema string) {
	guard.Trace = nil
	if guard.Bootstrap != nil {
		guard.Bootstrap = func(context.Context, *sql.Tx) error {
			call(p.scene.Bootstrap, p.mock)
			return nil
		}
	}
	if guard.UpToDate != nil {
		guard.UpToDate = func(context.Context, *sql.DB) (bool, error) {
			return p.scene.UpToDate != nil && p.scene.UpToDate(p.mock), nil
		}
	}
	driver := recdriver.New()
	driver.OnCall(p.expect)
	driver.OnExec(func(recdriver.Call) (int64, error) { return p.rows(), nil })
	db := driver.OpenDB()
	defer db.Close()
	// It can fail only before anything is sent.
	_ = guard.Ensure(context.Background(), db, schema, func(context.Context, *sql.DB) error {
		call(p.scene.Migrate, p.mock)
		return nil
	})
}

func call(fn func(sqlmock.Sqlmock), mock sqlmock.Sqlmock) {
	if fn != nil {
		fn(mock)
	}
}

// expect is called for each call that the fake server gets.
func (p *player) expect(_ context.Context, c *recdriver.Call) error {
	switch c.Kind {
	case recdriver.Begin:
		p.begun, p.inTx, p.execs = p.begun+1, true, 0
		p.mock.ExpectBegin()
	case recdriver.Commit:
		p.inTx = false
		p.mock.ExpectCommit()
	case recdriver.Exec:
		p.execs++
		if p.begun == 2 && p.execs > 1 {
			return nil // a heartbeat, on a machine that is very slow
		}
		p.mock.ExpectExec(p.quote(c.Query)).WillReturnResult(sqlmock.NewResult(0, p.rows()))
	}
	return nil
}

// rows is how many rows a statement affects: one for a lock that is granted,
// and one for a look, which is outside any transaction, if the schema is there.
func (p *player) rows() int64 {
	if !p.inTx && !p.scene.Exists {
		return 0
	}
	return 1
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
