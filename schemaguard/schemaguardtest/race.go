package schemaguardtest

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
)

// TB is the part of testing.TB that this package needs.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Race starts the same bootstrap code many times at once, first without and
// then with the guard. The zero value is ready to use.
type Race struct {
	// Processes is how many starts there are in a round, each on a pool of its
	// own, as separate processes have. Zero means 8.
	Processes int

	// Rounds is how many rounds each side runs. Zero means 20. While no round
	// without the guard has failed there are more, up to ten times as many.
	Rounds int

	// Timeout ends the context of a start that takes longer. Zero means one
	// minute.
	Timeout time.Duration

	// Guard is what the guarded side runs boot under, as its migrate. The zero
	// Guard guards no more than CREATE SCHEMA, so that Race tells whether boot
	// needs Serialize.
	Guard schemaguard.Guard

	// Guarded, if not nil, is the guarded side in place of Guard and boot: the
	// code that is really used, say. schema is the one that boot would get.
	Guarded func(ctx context.Context, db *sql.DB, schema string) error
}

// Run races boot, and fails the test if the guarded side ever fails. It also
// fails the test if the side without the guard never does: then the rounds have
// proved nothing, because boot needs no guard or because they were too few.
//
// open returns a new pool; Run calls it for each start and closes the pool. boot
// gets the name of a schema that does not exist, made of letters, digits and
// underscores, and creates it and what it likes in it. After the round Run drops
// the schema with all that is in it. The role needs the right to create schemas,
// and the server as many connections as there are Processes, or as boot makes of
// them. For code whose schema has a fixed name there is [Race.RunDatabases].
//
// The starts of a round are held back until each of them has its connection.
// Without that the race is so rare that a test passes with the guard removed.
func (r Race) Run(t TB, open func() (*sql.DB, error), boot func(ctx context.Context, db *sql.DB, schema string) error) {
	t.Helper()
	r.run(t, func(context.Context) (place, error) {
		schema := randomName()
		drop := func(ctx context.Context) error {
			return exec(ctx, open, "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
		}
		return place{schema, open, drop, schema}, nil
	}, boot)
}

// RunDatabases is [Race.Run] for boot code that works in a schema of a fixed
// name, such as public: each round has a new, empty database, which is dropped
// after it. open returns a new pool on the database of that name, and is called
// with "postgres" too, to create and drop the others. The role needs the right
// to create databases. schema is what Guard creates; public exists already.
func (r Race) RunDatabases(t TB, open func(database string) (*sql.DB, error), schema string, boot func(ctx context.Context, db *sql.DB) error) {
	t.Helper()
	admin := func() (*sql.DB, error) { return open("postgres") }
	r.run(t, func(ctx context.Context) (place, error) {
		database := randomName()
		drop := func(ctx context.Context) error {
			return exec(ctx, admin, "DROP DATABASE IF EXISTS "+database+" WITH (FORCE)")
		}
		// Not template1, which cannot be copied while anybody is connected to it.
		err := exec(ctx, admin, "CREATE DATABASE "+database+" TEMPLATE template0")
		return place{schema, func() (*sql.DB, error) { return open(database) }, drop, database}, err
	}, func(ctx context.Context, db *sql.DB, _ string) error { return boot(ctx, db) })
}

// place is where one round takes place.
type place struct {
	schema string
	open   func() (*sql.DB, error)
	drop   func(ctx context.Context) error
	name   string // of what drop drops
}

func (r Race) run(t TB, newPlace func(ctx context.Context) (place, error), boot func(ctx context.Context, db *sql.DB, schema string) error) {
	t.Helper()
	r.Processes = cmp.Or(r.Processes, 8)
	r.Rounds = cmp.Or(r.Rounds, 20)
	r.Timeout = cmp.Or(r.Timeout, time.Minute)
	guarded := r.Guarded
	if guarded == nil {
		guarded = func(ctx context.Context, db *sql.DB, schema string) error {
			return r.Guard.Ensure(ctx, db, schema, func(ctx context.Context, db *sql.DB) error {
				return boot(ctx, db, schema)
			})
		}
	}

	control := tally{side: "without the guard", texts: map[string]int{}}
	for control.rounds < r.Rounds || control.failed == 0 && control.rounds < 10*r.Rounds {
		control.add(r.round(t, newPlace, boot))
	}
	t.Logf("%v", &control)
	with := tally{side: "with the guard", texts: map[string]int{}}
	for with.rounds < control.rounds {
		with.add(r.round(t, newPlace, guarded))
	}
	t.Logf("%v", &with)

	if with.failed > 0 {
		t.Errorf("schemaguardtest: failed under the guard: %v%s", &with, r.advice())
	}
	if control.failed == 0 {
		t.Errorf("schemaguardtest: proved nothing: %v", &control)
	}
}

func (r Race) advice() string {
	if r.Guarded != nil || r.Guard.Serialize || r.Guard.UpToDate != nil || r.Guard.Once != "" {
		return ""
	}
	return "\n\tOnly CREATE SCHEMA was guarded. Code that has no lock of its own needs Guard.Serialize."
}

// round starts fn in all processes at once and returns their errors.
func (r Race) round(t TB, newPlace func(ctx context.Context) (place, error), fn func(ctx context.Context, db *sql.DB, schema string) error) []error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	defer cancel()
	at, err := newPlace(ctx)
	if err != nil {
		t.Fatalf("schemaguardtest: %s: %v", at.name, err)
	}
	// Its context is another: the end of the starts is not that of their schema.
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := at.drop(ctx); err != nil {
			t.Errorf("schemaguardtest: %s stays behind: %v", at.name, err)
		}
	}()
	pools := make([]*sql.DB, r.Processes)
	defer func() {
		for _, db := range pools {
			if db != nil {
				_ = db.Close()
			}
		}
	}()
	for i := range pools {
		db, err := at.open()
		if err == nil {
			pools[i] = db
			err = db.PingContext(ctx) // no start is held up by the way to the server
		}
		if err != nil {
			t.Fatalf("schemaguardtest: connection %d of %d: %v", i+1, r.Processes, err)
		}
	}

	errs := make([]error, r.Processes)
	var ended sync.WaitGroup
	for i, db := range pools { // all connected: here the barrier lifts
		ended.Add(1)
		go func() {
			defer ended.Done()
			errs[i] = errors.New("the start ended its goroutine") // stands after runtime.Goexit
			errs[i] = fn(ctx, db, at.schema)
		}()
	}
	ended.Wait()
	return errs
}

// exec runs statement on a pool of its own: boot may have closed the one that
// it was given.
func exec(ctx context.Context, open func() (*sql.DB, error), statement string) error {
	db, err := open()
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, statement)
	return err
}

func randomName() string { return fmt.Sprintf("race_%016x", rand.Uint64()) }

// tally is what came of one side's rounds.
type tally struct {
	side           string
	rounds, failed int // rounds
	starts, errors int
	texts          map[string]int
}

func (y *tally) add(errs []error) {
	before := y.errors
	for _, err := range errs {
		if err != nil {
			y.errors++
			y.texts[raceName.ReplaceAllString(err.Error(), "race_…")]++
		}
	}
	y.starts += len(errs)
	y.rounds++
	if y.errors > before {
		y.failed++
	}
}

// raceName is the random name, which is left out so that equal errors can be counted.
var raceName = regexp.MustCompile(`race_[0-9a-f]{16}`)

func (y *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d of %d rounds failed, %d of %d starts", y.side, y.failed, y.rounds, y.errors, y.starts)
	texts := slices.SortedFunc(maps.Keys(y.texts), func(a, b string) int {
		return cmp.Or(y.texts[b]-y.texts[a], strings.Compare(a, b))
	})
	for _, text := range texts {
		fmt.Fprintf(&b, "\n\t%d × %s", y.texts[text], text)
	}
	return b.String()
}
