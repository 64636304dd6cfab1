// Package fleet has many processes of one program begin the same job at the same
// moment.
package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// Program is what the processes do: they take jobs and answer each. Jobs and answers
// travel as JSON.
type Program[Job, Answer any] struct {
	Env     string   // the variable that makes a process of this program a worker
	Environ []string // of the workers, besides that of their parent

	// Do does a job, that began at the given time, until ctx ends.
	Do func(ctx context.Context, at time.Time, job Job) Answer

	// Stuck answers for a job that has not come back Grace after its context
	// ended: not every library looks at its context.
	Stuck func(took time.Duration) Answer
	Grace time.Duration
}

// order is what a worker is told.
type order[Job any] struct {
	Job     Job
	At      time.Time // when all begin
	Timeout time.Duration
}

// reply is what it says afterwards.
type reply[Answer any] struct {
	Answer Answer
	Stuck  bool // it ends its process
}

// prefix starts the lines that are for the parent; libraries print to stdout, too.
const prefix = "bootlock fleet: "

// IsWorker reports whether this process is to call Work and nothing else.
func (p Program[Job, Answer]) IsWorker() bool { return os.Getenv(p.Env) != "" }

// Work does jobs until there are no more. A worker lives for many rounds, since it is
// the starts that are to collide and not the loading of the programs. An error ends the
// process.
func (p Program[Job, Answer]) Work(in io.Reader, out io.Writer) error {
	orders := json.NewDecoder(bufio.NewReader(in))
	for {
		var o order[Job]
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r := p.bounded(o)
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s%s\n", prefix, line); err != nil {
			return err
		}
		if r.Stuck {
			return errors.New("a job does not come back")
		}
	}
}

// bounded does a job, and says so if it does not come back.
func (p Program[Job, Answer]) bounded(o order[Job]) reply[Answer] {
	done := make(chan Answer, 1)
	go func() {
		time.Sleep(time.Until(o.At)) // the barrier
		ctx, cancel := context.WithDeadline(context.Background(), o.At.Add(o.Timeout))
		defer cancel()
		done <- p.Do(ctx, o.At, o.Job)
	}()
	select {
	case a := <-done:
		return reply[Answer]{Answer: a}
	case <-time.After(time.Until(o.At) + o.Timeout + p.Grace):
		return reply[Answer]{Answer: p.Stuck(time.Since(o.At)), Stuck: true}
	}
}

// Fleet is processes that wait for jobs. It is not safe for concurrent use.
type Fleet[Job, Answer any] struct {
	program Program[Job, Answer]
	workers []*worker
}

type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Start starts n processes of this program, which has to call Work where IsWorker says
// so. The caller calls Close.
func (p Program[Job, Answer]) Start(n int) (*Fleet[Job, Answer], error) {
	f := &Fleet[Job, Answer]{program: p}
	for range n {
		w, err := p.worker()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.workers = append(f.workers, w)
	}
	return f, nil
}

func (p Program[Job, Answer]) worker() (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{cmd: exec.Command(self)}
	w.cmd.Env = append(append(os.Environ(), p.Env+"=1"), p.Environ...)
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	return w, w.cmd.Start()
}

// Do gives n workers the same job, to begin at the same moment, and waits for all of
// them. The context of the job ends after timeout. A worker that is stuck is replaced.
func (f *Fleet[Job, Answer]) Do(n int, job Job, timeout time.Duration) ([]Answer, error) {
	// Far enough away for all of them to have read it by then.
	at := time.Now().Add(50*time.Millisecond + time.Duration(n)*2*time.Millisecond)
	line, err := json.Marshal(order[Job]{job, at, timeout})
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	for _, w := range f.workers[:n] {
		if _, err := w.in.Write(line); err != nil {
			return nil, err
		}
	}
	answers := make([]Answer, n)
	var stuck []int
	for i, w := range f.workers[:n] {
		var r reply[Answer]
		if err := w.read(&r); err != nil {
			return nil, err
		}
		answers[i] = r.Answer
		if r.Stuck {
			stuck = append(stuck, i)
		}
	}
	for _, i := range stuck {
		_ = f.workers[i].cmd.Wait()
		if f.workers[i], err = f.program.worker(); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

func (w *worker) read(reply any) error {
	for {
		line, err := w.out.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("a worker ended: %w", err)
		}
		if text, ok := bytes.CutPrefix(line, []byte(prefix)); ok {
			return json.Unmarshal(text, reply)
		}
	}
}

// Close ends the processes.
func (f *Fleet[Job, Answer]) Close() error {
	var errs []error
	for _, w := range f.workers {
		if w == nil {
			continue
		}
		_ = w.in.Close() // ends it
		errs = append(errs, w.cmd.Wait())
	}
	return errors.Join(errs...)
}
