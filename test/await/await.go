// Package await waits for what a test expects to happen, and fails the test if it
// does not happen.
//
//   - [Until] and [True] look again and again, for what only the server or another
//     process knows.
//   - [Value] waits for what a channel brings, and [NoError] for the end of a call.
//   - [Go] has a call go on meanwhile, and brings its error in a channel.
package await

import (
	"errors"
	"testing"
	"time"
)

// Limit is longer than anything takes that works, on the slowest machine. Nothing
// is measured by it.
const Limit = time.Minute

// Until returns when check has nothing to complain of. What names the thing in the
// failure.
func Until(t testing.TB, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(Limit); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s: %v", what, err)
		}
	}
}

// True returns when is does.
func True(t testing.TB, what string, is func() bool) {
	t.Helper()
	Until(t, what, func() error {
		if !is() {
			return errors.New("it is not so yet")
		}
		return nil
	})
}

// Value returns what comes through c.
func Value[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Limit):
		t.Fatal("hangs")
		panic("not reached")
	}
}

// NoError waits for the error of the call that what names, which must be nil.
func NoError(t testing.TB, what string, c <-chan error) {
	t.Helper()
	if err := Value(t, c); err != nil {
		t.Errorf("%s: got %v; want nil", what, err)
	}
}

// Go starts call and returns a channel that gets its error.
func Go(call func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	return done
}
