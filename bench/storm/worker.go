package storm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/bootlock/bootlock/bench/lab"
)

// job is what a worker process is told to do.
type job struct {
	Way     string
	DSN     string
	Work    time.Duration
	Timeout time.Duration
	At      time.Time // when all start
}

// answer is what it says afterwards.
type answer struct {
	Took    time.Duration // from the common start
	Migrate time.Duration `json:",omitempty"` // what its own migrate took, if there was anything to do
	Err     string        `json:",omitempty"`
	Hung    bool          `json:",omitempty"` // it was given up at the timeout
	Stuck   bool          `json:",omitempty"` // it did not even look at its context, and ends its process
}

// envWorker makes this program a worker.
const envWorker = "BOOTLOCK_BENCH_WORKER"

// IsWorker reports whether this process is to call [Work] and nothing else.
func IsWorker() bool { return os.Getenv(envWorker) != "" }

// Work does jobs until there are no more. A worker lives for many rounds, since it is
// the starts that are to collide and not the loading of the programs.
func Work(in io.Reader, out io.Writer) error {
	jobs := json.NewDecoder(bufio.NewReader(in))
	for {
		var j job
		if err := jobs.Decode(&j); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a := j.bounded()
		if err := json.NewEncoder(out).Encode(a); err != nil {
			return err
		}
		if a.Stuck {
			return errors.New("a driver or a library does not come back")
		}
	}
}

// bounded does a job, and says so if it does not come back: not everybody looks at a
// context.
func (j job) bounded() answer {
	done := make(chan answer, 1)
	go func() { done <- j.do() }()
	select {
	case a := <-done:
		return a
	case <-time.After(time.Until(j.At) + j.Timeout + 2*time.Second):
		return answer{Took: time.Since(j.At), Hung: true, Stuck: true, Err: "does not return when its context ends"}
	}
}

func (j job) do() (a answer) {
	time.Sleep(time.Until(j.At)) // the barrier
	ctx, cancel := context.WithDeadline(context.Background(), j.At.Add(j.Timeout))
	defer cancel()
	db, err := lab.Pool("pgx", j.DSN, 0)
	if err != nil {
		return answer{Err: err.Error()}
	}
	m := &migration{work: j.Work}
	err = start(ctx, j.Way, db, m)
	a = answer{Took: time.Since(j.At), Migrate: m.took}
	if err != nil {
		a.Err, a.Hung = err.Error(), ctx.Err() != nil
	}
	_ = db.Close()
	return a
}

// Fleet is processes that wait for jobs.
type Fleet struct{ workers []*worker }

type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// NewFleet starts n processes of this program, which has to call [Work] where
// [IsWorker] says so. The caller calls Close.
func NewFleet(n int) (*Fleet, error) {
	f := &Fleet{}
	for range n {
		w, err := newWorker()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.workers = append(f.workers, w)
	}
	return f, nil
}

func newWorker() (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{cmd: exec.Command(self)}
	w.cmd.Env = append(os.Environ(), envWorker+"=1", "GOMAXPROCS=2")
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = json.NewDecoder(out)
	return w, w.cmd.Start()
}

// start gives the same job to n workers, to begin at the same moment, and waits for
// all of them. One that is stuck is replaced.
func (f *Fleet) start(n int, j job) ([]answer, error) {
	j.At = time.Now().Add(50*time.Millisecond + time.Duration(n)*2*time.Millisecond) // all have read it by then
	for _, w := range f.workers[:n] {
		if err := json.NewEncoder(w.in).Encode(j); err != nil {
			return nil, err
		}
	}
	answers := make([]answer, n)
	for i, w := range f.workers[:n] {
		if err := w.out.Decode(&answers[i]); err != nil {
			return nil, fmt.Errorf("a worker ended: %w", err)
		}
	}
	for i, a := range answers {
		if a.Stuck {
			_ = f.workers[i].cmd.Wait()
			w, err := newWorker()
			if err != nil {
				return nil, err
			}
			f.workers[i] = w
		}
	}
	return answers, nil
}

// Close ends the processes.
func (f *Fleet) Close() error {
	var errs []error
	for _, w := range f.workers {
		_ = w.in.Close() // ends it
		errs = append(errs, w.cmd.Wait())
	}
	return errors.Join(errs...)
}
