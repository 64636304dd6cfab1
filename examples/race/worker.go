package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
)

// job is what a worker process is told to do.
type job struct {
	Library int
	Mode    mode
	DSN     string
	Timeout time.Duration
	At      time.Time // when all start
}

// result is what it answers.
type result struct {
	Took    time.Duration // from the common start
	Err     string        `json:",omitempty"`
	Code    string        `json:",omitempty"` // SQLSTATE
	Missing int           `json:",omitempty"`
	Hung    bool          `json:",omitempty"`
}

// envWorker makes this program a worker.
const envWorker = "BOOTLOCK_RACE_WORKER"

// answer starts the lines that are for the parent; libraries print to stdout,
// too.
const answer = "bootlock race: "

// work does jobs until there are no more. A worker lives for many rounds, since
// it is the starts that are to collide and not the loading of the programs.
func work(in io.Reader, out io.Writer) error {
	jobs := json.NewDecoder(bufio.NewReader(in))
	for {
		var j job
		if err := jobs.Decode(&j); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r := bounded(j)
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s%s\n", answer, line); err != nil {
			return err
		}
		if r.Hung {
			return errors.New("hung")
		}
	}
}

// bounded does a job, and says so if it does not come back: not every library
// looks at its context.
func bounded(j job) result {
	done := make(chan result, 1)
	go func() { done <- run(j) }()
	select {
	case r := <-done:
		return r
	case <-time.After(time.Until(j.At) + j.Timeout + 3*time.Second):
		return result{Took: time.Since(j.At), Hung: true, Err: "hangs: did not return, nor look at its context"}
	}
}

func run(j job) result {
	l := libraries[j.Library]
	time.Sleep(time.Until(j.At)) // the barrier
	ctx, cancel := context.WithDeadline(context.Background(), j.At.Add(j.Timeout))
	defer cancel()
	p, err := l.open(ctx, j.DSN)
	if err != nil {
		return failed(j, err)
	}
	defer p.close()
	if err := j.Mode.start(ctx, p); err != nil {
		return failed(j, err)
	}
	r := result{Took: time.Since(j.At)}
	missing, err := l.missing(ctx, p.db)
	if err != nil {
		return failed(j, fmt.Errorf("looking what is missing: %w", err))
	}
	r.Missing = missing
	return r
}

func failed(j job, err error) result {
	r := result{Took: time.Since(j.At), Err: err.Error()}
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		r.Code = state.SQLState()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		r.Err = "hangs: " + r.Err
	}
	return r
}

func literals(names []string) string {
	return "'" + strings.Join(names, "', '") + "'"
}

func isWorker() bool { return os.Getenv(envWorker) != "" }
