package main

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

// order is a job for a worker.
type order struct {
	Library int
	Mode    mode
	DSN     string
	Timeout time.Duration
	At      time.Time // when all begin
}

// envWorker makes a process of this program a worker.
const envWorker = "BOOTLOCK_RACE_WORKER"

// prefix starts the lines that are for the parent; libraries print to stdout, too.
const prefix = "bootlock race: "

// grace is how long after the end of its context a job may come back: not every
// library looks at its context.
const grace = 3 * time.Second

// work does jobs until there are no more. A worker lives for many rounds, since it is
// the starts that are to collide and not the loading of the programs. A job that does
// not come back is left alone: it ends when its database is dropped.
func work(in io.Reader, out io.Writer) error {
	orders := json.NewDecoder(bufio.NewReader(in))
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		line, err := json.Marshal(o.run())
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s%s\n", prefix, line); err != nil {
			return err
		}
	}
}

// hangs is the error of a job that does not come back.
const hangs = "hangs: did not return, nor look at its context"

func (o order) run() result {
	done := make(chan result, 1)
	go func() {
		time.Sleep(time.Until(o.At)) // the barrier
		ctx, cancel := context.WithDeadline(context.Background(), o.At.Add(o.Timeout))
		defer cancel()
		done <- o.do(ctx)
	}()
	select {
	case r := <-done:
		return r
	case <-time.After(time.Until(o.At) + o.Timeout + grace):
		return result{Took: time.Since(o.At), Err: hangs}
	}
}

// fleet is the processes that start together.
type fleet []*worker

type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startFleet starts n workers. The caller calls close.
func startFleet(n int) (fleet, error) {
	f := make(fleet, n)
	for i := range f {
		var err error
		if f[i], err = startWorker(); err != nil {
			return nil, errors.Join(err, f[:i].close())
		}
	}
	return f, nil
}

func startWorker() (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envWorker+"=1")
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	return &worker{cmd, in, bufio.NewReader(out)}, errors.Join(inErr, outErr, cmd.Start())
}

// do gives n workers the same job, to begin at the same moment, and waits for all of
// them.
func (f fleet) do(n int, o order) ([]result, error) {
	// Far enough away for all of them to have read it by then.
	o.At = time.Now().Add(50*time.Millisecond + time.Duration(n)*2*time.Millisecond)
	line, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	for _, w := range f[:n] {
		if _, err := w.in.Write(append(line, '\n')); err != nil {
			return nil, err
		}
	}
	results := make([]result, n)
	for i, w := range f[:n] {
		if err := w.read(&results[i]); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (w *worker) read(r *result) error {
	for {
		line, err := w.out.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("a worker ended: %w", err)
		}
		if text, ok := bytes.CutPrefix(line, []byte(prefix)); ok {
			return json.Unmarshal(text, r)
		}
	}
}

func (f fleet) close() error {
	var errs []error
	for _, w := range f {
		_ = w.in.Close() // ends it
		errs = append(errs, w.cmd.Wait())
	}
	return errors.Join(errs...)
}
