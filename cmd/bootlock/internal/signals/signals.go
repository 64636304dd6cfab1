// Package signals lets a signal end a context first, and reach a command later.
package signals

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// EndedError is the cause of a context that a signal has ended.
type EndedError struct {
	Name   string
	Number int
}

func (e *EndedError) Error() string { return "ended by " + e.Name }

// Catcher has the signals that this process gets.
type Catcher struct {
	mu sync.Mutex
	to func(os.Signal)
}

// Catch returns a context that ends with the first signal that asks for that,
// with an [EndedError] as its cause. A second such signal ends the process at
// once, with the exit code that a shell gives for it: what the first one should
// have ended hangs. stop gives the signals back.
func Catch(parent context.Context) (_ context.Context, s *Catcher, stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	s = &Catcher{}
	asked := false
	s.to = func(sig os.Signal) {
		switch {
		case !Ends(sig):
		case asked:
			os.Exit(128 + Number(sig))
		default:
			asked = true
			cancel(&EndedError{sig.String(), Number(sig)})
		}
	}
	c := make(chan os.Signal, 16)
	signal.Notify(c, caught()...)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-c:
				s.mu.Lock()
				s.to(sig)
				s.mu.Unlock()
			case <-done:
				return
			}
		}
	}()
	return ctx, s, func() {
		signal.Stop(c)
		close(done)
		cancel(nil)
	}
}

// Number is the number of sig.
func Number(sig os.Signal) int {
	number, _ := sig.(syscall.Signal)
	return int(number)
}

// PassTo sends all further signals to c, which must be drained or roomy.
func (s *Catcher) PassTo(c chan<- os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = func(sig os.Signal) {
		select {
		case c <- sig:
		default: // nobody looks any more
		}
	}
}
