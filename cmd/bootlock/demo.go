package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/test/pgtest"
)

type demo struct {
	rounds, processes int
	svg               string

	server *pgtest.Server
	self   string // the path of this program
}

// moreRounds bounds how often the rounds without the guard are repeated while
// not one of them fails.
const moreRounds = 3

func (a *app) demoCommand() *cobra.Command {
	d := &demo{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See the race on a throwaway server, without and with the guard",
		Long: `demo starts a throwaway PostgreSQL and lets many processes create the same
schema at the same moment, on a fresh database each round: first by CREATE
SCHEMA IF NOT EXISTS as it is, then under the guard. Half of the processes use
lib/pq, half pgx.

The server is the one in ` + pgtest.EnvDSN + ` if that is set, else a container if
Docker answers, else the PostgreSQL binaries of this machine.

The exit code is 0 only if no process failed under the guard, and some failed
without it: else nothing was proved.`,
		Example: `  bootlock demo
  bootlock demo --rounds 20 --processes 32 --svg race.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.rounds < 1 || d.processes < 2 {
				return usage("it takes one round and two processes at least")
			}
			return a.demo(cmd.Context(), d)
		},
	}
	cmd.Flags().IntVar(&d.rounds, "rounds", 10, "rounds without the guard, and as many with it")
	cmd.Flags().IntVar(&d.processes, "processes", 16, "processes that start together in each round")
	cmd.Flags().StringVar(&d.svg, "svg", "", "draw one round of each into this file")
	must(cmd.MarkFlagFilename("svg", "svg"))
	return cmd
}

func (a *app) demo(ctx context.Context, d *demo) (err error) {
	ctx, _, stop := catchSignals(ctx)
	defer stop()
	if d.self, err = os.Executable(); err != nil {
		return &exitError{exitOwn, err}
	}
	d.server, err = pgtest.Start(ctx, pgtest.Options{Log: func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		a.log.say(text, text)
	}})
	if err != nil {
		return &exitError{exitUnreachable, err}
	}
	defer d.server.Stop() //nolint:errcheck // its data is thrown away anyway

	without, with := &side{name: "without"}, &side{name: "with bootlock", guarded: true}
	if err := a.play(ctx, d, without, with); err != nil {
		return a.failure(ctx, err)
	}
	fmt.Fprintln(a.out, report(d, without, with))
	if d.svg != "" {
		if err := drawFile(d.svg, d.server.Version, without.worst(), with.worst()); err != nil {
			return &exitError{exitOwn, err}
		}
		fmt.Fprintf(a.out, "The picture is in %s.\n", d.svg)
	}
	text, ok := verdict(without, with)
	fmt.Fprintln(a.out, text)
	if !ok {
		return &exitError{code: exitFailed}
	}
	return nil
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

// play runs the rounds, and shows how far it is.
func (a *app) play(ctx context.Context, d *demo, sides ...*side) error {
	bar := a.progress()
	defer bar.stop()
	for _, s := range sides {
		next := bar.start(s.name, d.rounds)
		for n := 1; d.goesOn(s, n); n++ {
			r, err := d.round(ctx, s.guarded)
			if err != nil {
				return err
			}
			r.number = n
			s.rounds = append(s.rounds, r)
			next(s.failures())
		}
	}
	return nil
}

// goesOn reports whether round n is to be played: a race that was not seen yet is
// given more rounds to show.
func (d *demo) goesOn(s *side, n int) bool {
	unseen := !s.guarded && s.failures() == 0
	return n <= d.rounds || unseen && n <= moreRounds*d.rounds
}

// round starts the processes on a fresh database, and lets them go together.
func (d *demo) round(ctx context.Context, guarded bool) (r round, err error) {
	dsn, drop, err := d.server.CreateDatabase(ctx, "demo")
	if err != nil {
		return r, err
	}
	defer drop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()

	processes := make([]*process, d.processes)
	for i := range processes {
		driver := []string{"pgx", "postgres"}[i%2]
		processes[i], err = start(ctx, d.self, job{Driver: driver, DSN: dsn, Guarded: guarded})
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

func start(ctx context.Context, self string, j job) (*process, error) {
	p := &process{driver: j.Driver, cmd: exec.CommandContext(ctx, self, "demo-process")}
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
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

func (s *side) failures() (n int) {
	for _, r := range s.rounds {
		n += r.failures()
	}
	return n
}

func (s *side) processes() (n int) {
	for _, r := range s.rounds {
		n += len(r.outcomes)
	}
	return n
}

func (s *side) failedRounds() (n int) {
	for _, r := range s.rounds {
		if r.failures() > 0 {
			n++
		}
	}
	return n
}

func (r round) failures() (n int) {
	for _, o := range r.outcomes {
		if o.Err != "" {
			n++
		}
	}
	return n
}

// done is when the last process was ready, or had failed.
func (r round) done() time.Duration {
	var last time.Duration
	for _, o := range r.outcomes {
		last = max(last, o.Done)
	}
	return last
}

// worst is the round with the most failures; of several the one that took the
// median time.
func (s *side) worst() round {
	rounds := slices.Clone(s.rounds)
	slices.SortFunc(rounds, func(a, b round) int { return b.failures() - a.failures() })
	most := rounds[0].failures()
	rounds = slices.DeleteFunc(rounds, func(r round) bool { return r.failures() < most })
	slices.SortFunc(rounds, func(a, b round) int { return int(a.done() - b.done()) })
	return rounds[len(rounds)/2]
}

// times are the median and the longest time until all processes of a round
// were done.
func (s *side) times() (median, longest time.Duration) {
	var all []time.Duration
	for _, r := range s.rounds {
		all = append(all, r.done())
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}

// errors are the error texts with how often each came, the most frequent first.
func (s *side) errors() string {
	count := map[string]int{}
	for _, r := range s.rounds {
		for _, o := range r.outcomes {
			if o.Err != "" {
				count[plain(o.Err)]++
			}
		}
	}
	var lines []string
	for text, n := range count {
		lines = append(lines, fmt.Sprintf("%d × %s", n, text))
	}
	slices.SortFunc(lines, func(a, b string) int {
		var m, n int
		_, _ = fmt.Sscan(a, &m)
		_, _ = fmt.Sscan(b, &n)
		if m != n {
			return n - m
		}
		return strings.Compare(a, b)
	})
	if len(lines) == 0 {
		return "none"
	}
	return strings.Join(lines, "\n")
}

// plain makes one text of what lib/pq and pgx say about the same error.
func plain(text string) string {
	if i := strings.Index(text, "duplicate key"); i >= 0 {
		text = text[i:]
	}
	for _, noise := range []string{"ERROR: ", "pq: "} {
		text = strings.ReplaceAll(text, noise, "")
	}
	text = strings.ReplaceAll(text, " (SQLSTATE ", " (")
	return text
}

func report(d *demo, sides ...*side) string {
	t := table.NewWriter()
	t.SetStyle(table.StyleRounded)
	t.Style().Format.Header = text.FormatDefault
	t.SetTitle("%d processes create one schema at the same moment, PostgreSQL %s", d.processes, shortVersion(d.server.Version))
	t.AppendHeader(table.Row{"", sides[0].name, sides[1].name})
	row := func(name string, value func(*side) any) {
		t.AppendRow(table.Row{name, value(sides[0]), value(sides[1])})
	}
	row("rounds", func(s *side) any { return len(s.rounds) })
	row("  with a failure", func(s *side) any { return s.failedRounds() })
	row("processes", func(s *side) any { return s.processes() })
	row("  failed", func(s *side) any { return s.failures() })
	row("until all were done, median", func(s *side) any { median, _ := s.times(); return median.Round(time.Millisecond) })
	row("  longest", func(s *side) any { _, longest := s.times(); return longest.Round(time.Millisecond) })
	t.AppendSeparator()
	row("errors", func(s *side) any { return wrap(s.errors(), 64) })
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignLeft}, {Number: 3, Align: text.AlignLeft}})
	return t.Render()
}

// wrap breaks each line of its own at words.
func wrap(lines string, width int) string {
	var wrapped []string
	for line := range strings.SplitSeq(lines, "\n") {
		wrapped = append(wrapped, text.WrapSoft(line, width))
	}
	return strings.Join(wrapped, "\n")
}

// shortVersion leaves out who has built the server.
func shortVersion(version string) string {
	short, _, _ := strings.Cut(version, " ")
	return short
}

// verdict says in words what the rounds have shown, and whether that is what
// they should have.
func verdict(without, with *side) (string, bool) {
	switch {
	case with.failures() > 0:
		return fmt.Sprintf("FAILED: %d of %d processes failed under the guard.", with.failures(), with.processes()), false
	case without.failures() == 0:
		return fmt.Sprintf("Proved nothing: without the guard, not one of %d processes failed. Try more rounds or more processes: --rounds, --processes.", without.processes()), false
	}
	return fmt.Sprintf("Without the guard %d of %d processes failed, with it none of %d.", without.failures(), without.processes(), with.processes()), true
}

// progressBar shows progress on a terminal, and a line per side elsewhere.
type progressBar struct {
	app    *app
	writer progress.Writer // nil: not a terminal
}

func (a *app) progress() *progressBar {
	bar := &progressBar{app: a}
	if a.quiet || a.log.json != nil || !isTerminal(a.err) {
		return bar
	}
	bar.writer = progress.NewWriter()
	bar.writer.SetOutputWriter(a.err)
	bar.writer.SetAutoStop(false)
	bar.writer.SetStyle(progress.StyleBlocks)
	bar.writer.SetTrackerPosition(progress.PositionRight)
	bar.writer.SetUpdateFrequency(50 * time.Millisecond)
	bar.writer.Style().Visibility.Value = true
	bar.writer.Style().Visibility.ETA = true
	go bar.writer.Render()
	for !bar.writer.IsRenderInProgress() {
		time.Sleep(time.Millisecond)
	}
	return bar
}

// start begins a side of the given rounds; the result is called after each,
// with the failures so far.
func (b *progressBar) start(name string, rounds int) (next func(failures int)) {
	done := 0
	if b.writer == nil {
		return func(failures int) {
			done++
			text := fmt.Sprintf("%s: round %d of %d, %d failures so far", name, done, max(done, rounds), failures)
			b.app.log.say(text, text)
		}
	}
	tracker := &progress.Tracker{Message: name, Total: int64(rounds)}
	b.writer.AppendTracker(tracker)
	return func(failures int) {
		if done++; done > rounds {
			tracker.UpdateTotal(int64(done))
		}
		tracker.UpdateMessage(fmt.Sprintf("%-13s %d failures", name, failures))
		tracker.Increment(1)
	}
}

func (b *progressBar) stop() {
	if b.writer == nil {
		return
	}
	b.writer.Stop()
	for b.writer.IsRenderInProgress() {
		time.Sleep(time.Millisecond)
	}
}
