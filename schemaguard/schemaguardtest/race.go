package schemaguardtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
)

// TB is the part of testing.TB that Race needs.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Race starts the same bootstrap code many times at once, first without and
// then with the guard. Its zero value is ready.
type Race struct {
	// Processes is how many starts there are in a round, each on a pool of its
	// own, as separate processes have. Zero means 8.
	Processes int

	// Rounds is how many rounds there are of either side, each on a schema of
	// its own. Zero means 20. If none of the control group's fails there are
	// more, up to ten times as many.
	Rounds int

	// Timeout ends the context of a start that takes longer. Zero means a
	// minute.
	Timeout time.Duration

	// Guard is what the guarded side runs boot under, as its migrate. The zero
	// Guard guards no more than CREATE SCHEMA, so that Race tells whether boot
	// needs Serialize.
	Guard schemaguard.Guard

	// Guarded is the guarded side, if it is not Guard with boot: the code that
	// is really used, say. It gets the name of a schema that is not there.
	Guarded func(ctx context.Context, db *sql.DB, schema string) error
}

// Run races boot, and fails the test if the guarded side ever fails, or if the
// side without a guard never does: then the rounds have proved nothing, as boot
// needs no guard, or as they were too few to tell.
//
// open returns a new pool; it is called once per start, and Run closes the
// pool. boot gets the name of a schema that is not there, of letters, digits
// and underscores, and creates it and whatever else it likes in it. Run drops
// the schema with all that is in it after the round. It needs the right to
// create schemas, and as many connections as there are Processes, or as boot
// makes of them.
//
// All starts of a round are held back until each of them has its connection;
// without that the race is so rare that a test passes with the guard taken out.
func (r Race) Run(t TB, open func() (*sql.DB, error), boot func(ctx context.Context, db *sql.DB, schema string) error) {
	t.Helper()
	if r.Processes == 0 {
		r.Processes = 8
	}
	if r.Rounds == 0 {
		r.Rounds = 20
	}
	if r.Timeout == 0 {
		r.Timeout = time.Minute
	}
	guarded := r.Guarded
	if guarded == nil {
		guarded = func(ctx context.Context, db *sql.DB, schema string) error {
			return r.Guard.Ensure(ctx, db, schema, func(ctx context.Context, db *sql.DB) error {
				return boot(ctx, db, schema)
			})
		}
	}

	control := tally{side: "without the guard"}
	for control.rounds < r.Rounds || control.failed == 0 && control.rounds < 10*r.Rounds {
		control.add(r.round(t, open, boot))
	}
	t.Logf("%v", &control)
	with := tally{side: "with the guard"}
	for with.rounds < control.rounds {
		with.add(r.round(t, open, guarded))
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
	if r.Guarded != nil || r.Guard.Serialize || r.Guard.UpToDate != nil {
		return ""
	}
	return "\n\tOnly CREATE SCHEMA was guarded. Code that has no lock of its own needs Guard.Serialize."
}

// round starts fn in all processes at once and returns their errors.
func (r Race) round(t TB, open func() (*sql.DB, error), fn func(ctx context.Context, db *sql.DB, schema string) error) []error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	defer cancel()
	pools := make([]*sql.DB, r.Processes)
	defer func() {
		for _, db := range pools {
			if db != nil {
				_ = db.Close()
			}
		}
	}()
	for i := range pools {
		db, err := open()
		if err == nil {
			pools[i] = db
			err = db.PingContext(ctx) // no start is held up by the way to the server
		}
		if err != nil {
			t.Fatalf("schemaguardtest: connection %d of %d: %v", i+1, r.Processes, err)
		}
	}

	schema := fmt.Sprintf("race_%016x", rand.Uint64())
	errs := make([]error, r.Processes)
	var ended sync.WaitGroup
	for i, db := range pools { // all connected: here the barrier lifts
		ended.Add(1)
		go func() {
			defer ended.Done()
			errs[i] = errors.New("the start ended its goroutine") // stands after runtime.Goexit
			errs[i] = fn(ctx, db, schema)
		}()
	}
	ended.Wait()
	if err := drop(ctx, open, schema); err != nil {
		t.Errorf("schemaguardtest: %s stays behind: %v", schema, err)
	}
	return errs
}

// drop removes what a round has left, on a pool of its own: boot may have
// closed the one that it was given.
func drop(ctx context.Context, open func() (*sql.DB, error), schema string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	db, err := open()
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
	return err
}

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
		y.starts++
		if err == nil {
			continue
		}
		y.errors++
		if y.texts == nil {
			y.texts = map[string]int{}
		}
		y.texts[anonymous(err)]++
	}
	y.rounds++
	if y.errors > before {
		y.failed++
	}
}

var raceName = regexp.MustCompile(`race_[0-9a-f]{16}`)

// anonymous is err's text with no schema's random name in it, so that equal
// ones can be counted.
func anonymous(err error) string {
	return raceName.ReplaceAllString(err.Error(), "race_…")
}

func (y *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d of %d rounds failed, %d of %d starts", y.side, y.failed, y.rounds, y.errors, y.starts)
	var texts []string
	for text := range y.texts {
		texts = append(texts, text)
	}
	slices.SortFunc(texts, func(a, b string) int {
		if n := y.texts[b] - y.texts[a]; n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	for _, text := range texts {
		fmt.Fprintf(&b, "\n\t%d × %s", y.texts[text], text)
	}
	return b.String()
}
