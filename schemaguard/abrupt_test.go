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
	const creating = "connect > begin > lock > create schema"
	type test struct {
		guard func(end func()) schemaguard.Guard
		order string
	}
	guard := func(g schemaguard.Guard) func(func()) schemaguard.Guard {
		return func(func()) schemaguard.Guard { return g }
	}
	asked := func(at int) func(end func()) schemaguard.Guard {
		return func(end func()) schemaguard.Guard {
			n := 0
			return schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) {
				if n++; n == at {
					end()
				}
				return false, nil
			}}
		}
	}
	tests := map[string]test{
		"bootstrap": {func(end func()) schemaguard.Guard {
			return schemaguard.Guard{Bootstrap: func(context.Context, *sql.Tx) error { end(); return nil }}
		}, creating + " > bootstrap! > rollback > release"},
		"migrate":                    {guard(schemaguard.Guard{}), created + " > migrate!"},
		"migrate under the lease":    {guard(schemaguard.Guard{Serialize: true}), created + " > connect > begin > lock > migrate! > rollback > release"},
		"migrate of Once":            {guard(schemaguard.Guard{Once: "v1"}), "up to date > " + created + " > connect > begin > lock > up to date > migrate! > rollback > release"},
		"up to date":                 {asked(1), "up to date!"},
		"up to date under the lease": {asked(2), "up to date > " + created + " > connect > begin > lock > up to date! > rollback > release"},
	}
	t.Parallel()
	for how, end := range map[string]func(){"panic": func() { panic("the user's") }, "Goexit": runtime.Goexit} {
		t.Run(how, func(t *testing.T) {
			each(t, tests, func(t *testing.T, test test) {
				f := newFixture(t, 2)
				returned, value := false, any(nil)
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { value = recover() }()
					_ = f.ensureWith(context.Background(), test.guard(end), func(context.Context, *sql.DB) error {
						end()
						return nil
					})
					returned = true
				}()
				<-done
				if returned {
					t.Error("Ensure returned")
				}
				if how == "panic" && value != "the user's" || how == "Goexit" && value != nil {
					t.Errorf("got panic %v", value)
				}
				f.wantOrder(t, test.order)
				f.world.wantRan(t)
			})
		})
	}
}
