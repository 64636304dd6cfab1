//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"runtime"
	"testing"

	"github.com/bootlock/bootlock/schemaguard"
)

// However a function of the user ends, the transaction is rolled back, the connection
// is back in the pool, the locks are free, nothing is recorded, and the panic goes on
// as it was.
func TestAbruptEnds(t *testing.T) {
	const locked = created + " > connect > begin > lock"
	type test struct {
		guard schemaguard.Guard
		at    int // which call of a function of the user's ends abruptly
		order string
	}
	asks := schemaguard.Guard{UpToDate: answer(false)}
	tests := map[string]test{
		"bootstrap":                  {schemaguard.Guard{Bootstrap: bootstrapGrant}, 1, "connect > begin > lock > create schema > bootstrap! > rollback > release"},
		"migrate":                    {schemaguard.Guard{}, 1, created + " > migrate!"},
		"migrate under the lease":    {schemaguard.Guard{Serialize: true}, 1, locked + " > migrate! > rollback > release"},
		"migrate of Once":            {schemaguard.Guard{Once: "v1"}, 1, "up to date > " + locked + " > up to date > migrate! > rollback > release"},
		"up to date":                 {asks, 1, "up to date!"},
		"up to date under the lease": {asks, 2, "up to date > " + locked + " > up to date! > rollback > release"},
	}
	t.Parallel()
	for how, end := range map[string]func(){"panic": func() { panic("the user's") }, "Goexit": runtime.Goexit} {
		t.Run(how, func(t *testing.T) {
			each(t, tests, func(t *testing.T, test test) {
				f, calls := newFixture(t, 2), 0
				called := func() {
					if calls++; calls == test.at {
						end()
					}
				}
				if test.guard.Bootstrap != nil {
					test.guard.Bootstrap = func(context.Context, *sql.Tx) error { called(); return nil }
				}
				if test.guard.UpToDate != nil {
					test.guard.UpToDate = func(context.Context, *sql.DB) (bool, error) { called(); return false, nil }
				}
				returned, value, done := false, any(nil), make(chan struct{})
				go func() {
					defer close(done)
					defer func() { value = recover() }()
					_ = f.ensureWith(context.Background(), test.guard, func(context.Context, *sql.DB) error { called(); return nil })
					returned = true
				}()
				<-done
				if returned || how == "panic" && value != "the user's" || how == "Goexit" && value != nil {
					t.Errorf("returned: %t, and panic %v", returned, value)
				}
				f.wantOrder(t, test.order)
				f.world.wantRan(t)
			})
		})
	}
}
