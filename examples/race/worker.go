package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
)

type result struct {
	Took    time.Duration // from the common start
	Err     string        `json:",omitempty"`
	Code    string        `json:",omitempty"` // SQLSTATE
	Missing int           `json:",omitempty"`
}

// do starts like one of many processes.
func (o order) do(ctx context.Context) result {
	l := libraries[o.Library]
	p, err := l.open(ctx, o.DSN)
	if err != nil {
		return failed(o.At, err)
	}
	defer p.close()
	if err := o.Mode.start(ctx, p); err != nil {
		return failed(o.At, err)
	}
	r := result{Took: time.Since(o.At)}
	if r.Missing, err = l.missing(ctx, p.db); err != nil {
		return failed(o.At, fmt.Errorf("looking what is missing: %w", err))
	}
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
