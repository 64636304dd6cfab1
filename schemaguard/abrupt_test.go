//go:build go1.25

package schemaguard_test

import (
	"context"
	"database/sql"
	"runtime"
	"testing"

	"github.com/bootlock/bootlock/schemaguard"
)

// However a function of the user ends, the transaction is rolled back, the
// connection is back in the pool and the locks are free (newFixture checks the
// last two), and the panic goes on as it was.
func TestAbruptEnds(t *testing.T) {
	t.Parallel()
	const created = "connect > begin > lock > create schema"
	for name, test := range map[string]struct {
		guard func(end func()) schemaguard.Guard
		order string
	}{
		"bootstrap": {func(end func()) schemaguard.Guard {
			return schemaguard.Guard{Bootstrap: func(context.Context, *sql.Tx) error { end(); return nil }}
		}, created + " > bootstrap! > rollback > release"},
		"migrate": {func(func()) schemaguard.Guard {
			return schemaguard.Guard{}
		}, created + " > commit > release > migrate!"},
		"migrate under the lease": {func(func()) schemaguard.Guard {
			return schemaguard.Guard{Serialize: true}
		}, created + " > commit > release > connect > begin > lock > migrate! > rollback > release"},
		"up to date": {func(end func()) schemaguard.Guard {
			return schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) { end(); return false, nil }}
		}, "up to date!"},
		"up to date under the lease": {func(end func()) schemaguard.Guard {
			asked := false
			return schemaguard.Guard{UpToDate: func(context.Context, *sql.DB) (bool, error) {
				if asked {
					end()
				}
				asked = true
				return false, nil
			}}
		}, "up to date > " + created + " > commit > release > connect > begin > lock > up to date! > rollback > release"},
	} {
		for how, end := range map[string]func(){"panic": func() { panic("the user's") }, "Goexit": runtime.Goexit} {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t)
				f.db.SetMaxOpenConns(2)
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
			})
		}
	}
}
