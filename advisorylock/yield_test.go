//go:build go1.25

package advisorylock

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/internal/bridge"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// A process that gives back a lock that others poll for, however long it had it, lets
// them come first.
func TestYield(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := recdriver.New().OpenDB()
		defer db.Close()
		next := func() (a *acquisition, yielded time.Duration) {
			a = newAcquisition(bridge.Call{DB: db, Key: 42}, true)
			began := time.Now()
			a.yield(t.Context())
			return a, time.Since(began)
		}
		a, yielded := next()
		if yielded != 0 {
			t.Errorf("the first time: got a pause of %v; want none", yielded)
		}
		a.wait.polls, a.wait.lasted = true, true
		granted := time.Now()
		time.Sleep(2 * time.Second)
		a.remember(granted)
		if _, yielded = next(); yielded < 100*time.Millisecond {
			t.Errorf("at once again: got a pause of %v; want it as long as those of others", yielded)
		}
		a.remember(granted)
		time.Sleep(recently)
		if _, yielded = next(); yielded != 0 {
			t.Errorf("later: got a pause of %v; want none", yielded)
		}
	})
}
