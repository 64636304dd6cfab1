package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
)

// signals ends a context with the first signal that asks for that, until a
// command takes them over.
type signals struct {
	mu sync.Mutex
	to func(os.Signal)
}

// catchSignals returns a context that ends with a signal, the cause being a
// signalError.
func catchSignals(parent context.Context) (context.Context, *signals, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	s := &signals{to: func(sig os.Signal) {
		if ends(sig) {
			cancel(&signalError{sig.String(), signalNumber(sig)})
		}
	}}
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

// passTo sends all further signals to c, which must be drained or roomy.
func (s *signals) passTo(c chan<- os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = func(sig os.Signal) {
		select {
		case c <- sig:
		default: // nobody looks any more
		}
	}
}
