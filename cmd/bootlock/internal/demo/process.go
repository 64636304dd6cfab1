package demo

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the drivers of the demo
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
)

// A process of the demo gets its job on stdin, with the password in it, which
// must not show in ps. It says when it is ready, gets the common start time,
// and answers with what happened.

type job struct {
	Driver  string `json:"driver"`
	DSN     string `json:"dsn"`
	Guarded bool   `json:"guarded"`
}

// state is what a process does, as the picture shows it.
type state string

const (
	working state = "works without a lock"
	waiting state = "waits for the lock"
	holding state = "has the lock"
	commits state = "commits"
	ready   state = "ready"
	failed  state = "failed"
)

// outcome is what became of one process. Times count from the common start.
type outcome struct {
	Driver string        `json:"driver"`
	Spans  []span        `json:"spans"`
	Done   time.Duration `json:"done"`
	Err    string        `json:"err,omitempty"`
}

type span struct {
	State    state         `json:"state"`
	From, To time.Duration // of the start
}

// Process is one process of a round: it gets its job from in, and answers on out.
func Process(ctx context.Context, in io.Reader, out io.Writer) error {
	input := json.NewDecoder(bufio.NewReader(in))
	output := json.NewEncoder(out)
	var j job
	if err := input.Decode(&j); err != nil {
		return err
	}
	db, err := sql.Open(j.Driver, j.DSN)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if err := db.PingContext(ctx); err != nil {
		return err
	}
	if err := output.Encode("ready"); err != nil {
		return err
	}
	var start time.Time
	if err := input.Decode(&start); err != nil {
		return err
	}
	time.Sleep(time.Until(start))
	return output.Encode(bootstrap(ctx, db, j, start))
}

// statements are what many programs run when they start.
var statements = []string{
	"CREATE TABLE IF NOT EXISTS app.settings (name text PRIMARY KEY, value text NOT NULL)",
	"GRANT USAGE ON SCHEMA app TO PUBLIC",
	"INSERT INTO app.settings VALUES ('version', '1') ON CONFLICT DO NOTHING",
}

func bootstrap(ctx context.Context, db *sql.DB, j job, start time.Time) outcome {
	o := outcome{Driver: j.Driver}
	var err error
	if j.Guarded {
		err = o.guarded(ctx, db, start)
	} else {
		err = o.unguarded(ctx, db, start)
	}
	o.Done = time.Since(start)
	if err != nil {
		o.Err = err.Error()
	}
	return o
}

func (o *outcome) unguarded(ctx context.Context, db *sql.DB, start time.Time) error {
	begun := time.Since(start)
	defer func() { o.Spans = append(o.Spans, span{working, begun, time.Since(start)}) }()
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS app"); err != nil {
		return err
	}
	return execAll(ctx, db)
}

func (o *outcome) guarded(ctx context.Context, db *sql.DB, start time.Time) error {
	begun := time.Since(start)
	end := func(s state) {
		now := time.Since(start)
		o.Spans = append(o.Spans, span{s, begun, now})
		begun = now
	}
	trace := &locktrace.Trace{
		Start: func(ctx context.Context, e locktrace.Event) context.Context {
			if e.Step == locktrace.Commit || e.Step == locktrace.Rollback {
				end(holding) // by the time the answer is here, the next one may have it
			}
			return ctx
		},
		Done: func(_ context.Context, e locktrace.Event) {
			switch e.Step {
			case locktrace.Lock:
				end(waiting)
			case locktrace.Release:
				end(commits)
			}
		},
	}
	guard := schemaguard.Guard{
		Bootstrap: func(ctx context.Context, tx *sql.Tx) error { return execAll(ctx, tx) },
		Trace:     trace,
	}
	return guard.Ensure(ctx, db, "app", nil)
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func execAll(ctx context.Context, db execer) error {
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
