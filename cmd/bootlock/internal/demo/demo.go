// Package demo lets many processes create the same schema at the same moment,
// without and with the guard, on a server that is thrown away, and shows in a
// table and a picture what became of them.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Options say how to play.
type Options struct {
	DSN       string // a server that the demo may make databases on; empty: start one
	SVG       string // the file to draw into; empty: no picture
	Rounds    int    // on each side
	Processes int    // that start together in a round
	Command   string // the subcommand of this program that calls [Process]

	Say func(text string) // gets progress
}

// ErrNoServer says that there is no PostgreSQL to play on.
var ErrNoServer = errors.New("no server for the demo")

// moreRounds bounds how often the rounds without the guard are repeated while
// not one of them fails.
const moreRounds = 3

type demo struct {
	Options
	server *server
	self   string // the path of this program
}

// Run plays all rounds, and writes what they have shown to out. It reports
// whether no process failed under the guard, and some failed without it. The
// server that it started, and the databases that it made, are gone when it
// returns.
func Run(ctx context.Context, out io.Writer, o Options) (proved bool, err error) {
	d := &demo{Options: o}
	if d.self, err = os.Executable(); err != nil {
		return false, err
	}
	if d.server, err = startServer(ctx, o.DSN); err != nil {
		return false, fmt.Errorf("%w: %w", ErrNoServer, err)
	}
	defer d.server.stop()
	o.Say(fmt.Sprintf("PostgreSQL %s from %s", d.server.version, d.server.origin))

	without, with := &side{name: "without"}, &side{name: "with bootlock", guarded: true}
	if err := d.play(ctx, without, with); err != nil {
		return false, err
	}
	fmt.Fprintln(out, report(d, without, with))
	if d.SVG != "" {
		var b bytes.Buffer
		draw(&b, d.server.version, without.worst(), with.worst())
		if err := os.WriteFile(d.SVG, b.Bytes(), 0o644); err != nil {
			return false, err
		}
		fmt.Fprintf(out, "The picture is in %s.\n", d.SVG)
	}
	text, proved := verdict(without, with)
	fmt.Fprintln(out, text)
	return proved, nil
}

// side is all rounds without the guard, or all with it.
type side struct {
	name    string
	guarded bool
	rounds  []round
}

type round struct {
	number   int
	outcomes []outcome
}

func (d *demo) play(ctx context.Context, sides ...*side) error {
	for _, s := range sides {
		for n := 1; d.goesOn(s, n); n++ {
			r, err := d.round(ctx, s.guarded)
			if err != nil {
				return err
			}
			r.number = n
			s.rounds = append(s.rounds, r)
			d.Say(fmt.Sprintf("%s: round %d of %d, %d failures so far", s.name, n, max(n, d.Rounds), s.failures()))
		}
	}
	return nil
}

// goesOn reports whether round n is to be played: a race that was not seen yet is
// given more rounds to show.
func (d *demo) goesOn(s *side, n int) bool {
	unseen := !s.guarded && s.failures() == 0
	return n <= d.Rounds || unseen && n <= moreRounds*d.Rounds
}

// round starts the processes on a fresh database, and lets them go together.
func (d *demo) round(ctx context.Context, guarded bool) (r round, err error) {
	dsn, drop, err := d.server.createDatabase(ctx)
	if err != nil {
		return r, err
	}
	defer drop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()

	processes := make([]*process, d.Processes)
	for i := range processes {
		driver := []string{"pgx", "postgres"}[i%2]
		processes[i], err = start(ctx, d.self, d.Command, job{Driver: driver, DSN: dsn, Guarded: guarded})
		if err != nil {
			return r, err
		}
		defer processes[i].end()
	}
	for _, p := range processes {
		if err := p.expectReady(); err != nil {
			return r, err
		}
	}
	begin := time.Now().Add(50 * time.Millisecond)
	for _, p := range processes {
		if err := p.input.Encode(begin); err != nil {
			return r, err
		}
	}
	for _, p := range processes {
		r.outcomes = append(r.outcomes, p.outcome())
	}
	return r, ctx.Err()
}

// process is this program, started again.
type process struct {
	driver string
	cmd    *exec.Cmd
	stdin  io.Closer
	input  *json.Encoder
	output *json.Decoder
	stderr strings.Builder
}

func start(ctx context.Context, self, command string, j job) (*process, error) {
	p := &process{driver: j.Driver, cmd: exec.CommandContext(ctx, self, command)}
	p.cmd.Stderr = &p.stderr
	in, inErr := p.cmd.StdinPipe()
	out, outErr := p.cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, p.cmd.Start()); err != nil {
		return nil, err
	}
	p.stdin, p.input, p.output = in, json.NewEncoder(in), json.NewDecoder(out)
	return p, p.input.Encode(j)
}

func (p *process) expectReady() error {
	var word string
	if err := p.output.Decode(&word); err != nil {
		p.end()
		return fmt.Errorf("a process did not get ready: %w: %s", err, strings.TrimSpace(p.stderr.String()))
	}
	return nil
}

// outcome is what the process says about itself, or that it died.
func (p *process) outcome() outcome {
	var o outcome
	if err := p.output.Decode(&o); err != nil {
		p.end()
		return outcome{Driver: p.driver, Err: fmt.Sprintf("the process died: %s", strings.TrimSpace(p.stderr.String()))}
	}
	return o
}

// end waits for a process that has answered, and kills one that has not.
func (p *process) end() {
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
}
