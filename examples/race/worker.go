package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
)

type job struct {
	Library int
	Mode    mode
	DSN     string
}

type result struct {
	Took    time.Duration // from the common start
	Err     string        `json:",omitempty"`
	Code    string        `json:",omitempty"` // SQLSTATE
	Missing int           `json:",omitempty"`
}

// do starts like one of many processes that began at the given time.
func (j job) do(ctx context.Context, at time.Time) result {
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
