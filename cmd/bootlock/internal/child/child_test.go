package child

import (
	"testing"
	"time"
)

// What the command has started may go on after it for as long as the command itself
// would have had.
func TestPatience(t *testing.T) {
	for name, test := range map[string]struct {
		killAfter time.Duration
		lost      bool
		want      time.Duration
	}{
		"a signal":                   {0, false, leftover},
		"a signal, and --kill-after": {time.Minute, false, time.Minute},
		"the lock was lost":          {0, true, time.Second},
		"both":                       {time.Minute, true, time.Second},
	} {
		c := &Command{Grace: time.Second, KillAfter: test.killAfter}
		if got := c.patience(test.lost); got != test.want {
			t.Errorf("%s: got %v; want %v", name, got, test.want)
		}
	}
}
