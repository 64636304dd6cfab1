package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// fleet is a number of worker processes.
type fleet struct {
	workers []*worker
}

type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newFleet(n int) (*fleet, error) {
	f := &fleet{workers: make([]*worker, n)}
	for i := range f.workers {
		w, err := newWorker()
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.workers[i] = w
	}
	return f, nil
}

func newWorker() (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{cmd: exec.Command(self)}
	w.cmd.Env = append(os.Environ(), envWorker+"=1")
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

// start gives n workers the same job, to begin at the same moment, and waits for
// all of them. A worker that hung is replaced.
func (f *fleet) start(n int, j job) ([]result, error) {
	// Far enough away for all of them to have read it by then.
	j.At = time.Now().Add(30*time.Millisecond + time.Duration(n)*time.Millisecond)
	line, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	for _, w := range f.workers[:n] {
		if _, err := w.in.Write(line); err != nil {
			return nil, err
		}
	}
	results := make([]result, n)
	for i, w := range f.workers[:n] {
		if results[i], err = w.result(); err != nil {
			return nil, err
		}
	}
	for i, r := range results {
		if r.Hung {
			_ = f.workers[i].cmd.Wait()
			if f.workers[i], err = newWorker(); err != nil {
				return nil, err
			}
		}
	}
	return results, nil
}

func (w *worker) result() (r result, err error) {
	for {
		line, err := w.out.ReadBytes('\n')
		if err != nil {
			return r, fmt.Errorf("a worker ended: %w", err)
		}
		if text, ok := bytes.CutPrefix(line, []byte(answer)); ok {
			return r, json.Unmarshal(text, &r)
		}
	}
}

func (f *fleet) close() error {
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
