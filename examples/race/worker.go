package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/test/fleet"
)

// job is what a worker process is told to do.
type job struct {
	Library int
	Mode    mode
	DSN     string
}

// result is what it answers.
type result struct {
	Took    time.Duration // from the common start
	Err     string        `json:",omitempty"`
	Code    string        `json:",omitempty"` // SQLSTATE
	Missing int           `json:",omitempty"`
}

// racers are the processes that start together.
type racers = fleet.Fleet[job, result]

// worker is what each of them is.
var worker = fleet.Program[job, result]{
	Env: "BOOTLOCK_RACE_WORKER",
	Do:  run,
	Stuck: func(took time.Duration) result {
		return result{Took: took, Err: "hangs: did not return, nor look at its context"}
	},
	Grace: 3 * time.Second,
}

func run(ctx context.Context, at time.Time, j job) result {
	l := libraries[j.Library]
	p, err := l.open(ctx, j.DSN)
	if err != nil {
		return failed(at, err)
	}
	defer p.close()
	if err := j.Mode.start(ctx, p); err != nil {
		return failed(at, err)
	}
	r := result{Took: time.Since(at)}
	missing, err := l.missing(ctx, p.db)
	if err != nil {
		return failed(at, fmt.Errorf("looking what is missing: %w", err))
	}
	r.Missing = missing
	return r
}

func failed(at time.Time, err error) result {
	r := result{Took: time.Since(at), Err: err.Error()}
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		r.Code = state.SQLState()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		r.Err = "hangs: " + r.Err
	}
	return r
}
