package storm

import (
	"context"
	"time"

	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/test/fleet"
)

// job is what a worker process is told to do.
type job struct {
	Way  string
	DSN  string
	Work time.Duration
}

// answer is what it says afterwards.
type answer struct {
	Took    time.Duration // from the common start
	Migrate time.Duration `json:",omitempty"` // what its own migrate took, if there was anything to do
	Err     string        `json:",omitempty"`
	Hung    bool          `json:",omitempty"` // it was given up at the timeout
}

// Fleet is the processes that start together.
type Fleet = fleet.Fleet[job, answer]

// Worker is what each of them is.
var Worker = fleet.Program[job, answer]{
	Env:     "BOOTLOCK_BENCH_WORKER",
	Environ: []string{"GOMAXPROCS=2"},
	Do:      do,
	Stuck: func(took time.Duration) answer {
		return answer{Took: took, Hung: true, Err: "does not return when its context ends"}
	},
	Grace: 2 * time.Second,
}

func do(ctx context.Context, at time.Time, j job) (a answer) {
	db, err := lab.Pool("pgx", j.DSN, 0)
	if err != nil {
		return answer{Err: err.Error()}
	}
	m := &migration{work: j.Work}
	err = start(ctx, j.Way, db, m)
	a = answer{Took: time.Since(at), Migrate: m.took}
	if err != nil {
		a.Err, a.Hung = err.Error(), ctx.Err() != nil
	}
	_ = db.Close()
	return a
}
