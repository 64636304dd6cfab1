//go:build unix

package soak

import (
	"testing"
	"time"
)

// Each line is two sections of one key, in tenths of a second, and what went wrong.
func TestOverlaps(t *testing.T) {
	t.Parallel()
	lease := func(process int, entered, left int64, ok bool) section {
		return section{Process: process, Lease: true, Entered: entered, Left: left, OK: ok}
	}
	told := func(s section, at int64) section { s.Told = at; return s }
	asked := func(s section, at int64) section { s.Asked = at; return s }
	inTx := func(s section) section { s.Lease = false; return s }
	for name, c := range map[string]struct {
		a, b  section
		fault fault
		cause string
		wrong string
	}{
		"one after the other":     {lease(1, 10, 20, true), lease(2, 20, 30, true), fault{}, "", ""},
		"no fault":                {lease(1, 10, 20, false), lease(2, 15, 30, true), fault{}, "", "no fault explains it"},
		"terminated":              {lease(1, 10, 20, false), lease(2, 15, 30, true), fault{terminate, 1, 14, 14}, terminate, ""},
		"another one's":           {lease(1, 10, 20, false), lease(2, 15, 30, true), fault{terminate, 3, 14, 14}, "", "no fault explains it"},
		"terminated afterwards":   {lease(1, 10, 20, false), lease(2, 15, 30, true), fault{terminate, 1, 16, 16}, "", "no fault explains it"},
		"terminated long before":  {lease(1, 40, 50, false), lease(2, 45, 60, true), fault{terminate, 1, 14, 14}, "", "no fault explains it"},
		"terminated as it waited": {asked(inTx(lease(1, 40, 50, false)), 12), lease(2, 45, 60, true), fault{terminate, 1, 14, 14}, terminate, ""},
		"a lease is not so old":   {asked(lease(1, 40, 50, false), 12), lease(2, 45, 60, true), fault{terminate, 1, 14, 14}, "", "no fault explains it"},
		"the second, before":      {lease(1, 10, 20, true), lease(2, 15, 30, false), fault{reset, 2, 14, 14}, reset, ""},
		"a restart":               {lease(1, 10, 20, false), lease(2, 15, 30, true), fault{fast, everybody, 11, 13}, fast, ""},
		"silence is no excuse":    {lease(1, 10, 20, false), lease(2, 15, 30, true), fault{silent, 1, 11, 30}, "", "no fault explains it"},
		"told in time":            {told(lease(1, 10, 20, false), 15), lease(2, 15, 30, true), fault{silent, 1, 5, 30}, "", ""},
		"told too late":           {told(lease(1, 10, 20, false), 16), lease(2, 15, 30, true), fault{silent, 1, 5, 30}, "", "no fault explains it"},
		"both returned nil":       {told(lease(1, 10, 20, true), 12), lease(2, 15, 30, true), fault{terminate, 1, 14, 14}, "", "both calls returned nil"},
		"for longer than a lease": {lease(1, 10, 60, false), lease(2, 15, 60, true), fault{terminate, 1, 14, 14}, terminate, "it lasts for longer than a lease"},
		"frozen for that long":    {lease(1, 10, 60, false), lease(2, 15, 60, true), fault{freeze, 1, 11, 59}, freeze, ""},
		"a transaction learns it": {inTx(lease(1, 10, 60, false)), lease(2, 15, 60, true), fault{terminate, 1, 14, 14}, terminate, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, at := range []*int64{&c.a.Asked, &c.a.Entered, &c.a.Left, &c.a.Told, &c.b.Asked, &c.b.Entered, &c.b.Left, &c.b.Told, &c.fault.from, &c.fault.to} {
				*at *= int64(time.Second / 10)
			}
			got := overlaps([]section{c.b, c.a}, []fault{c.fault})
			switch {
			case c.cause == "" && c.wrong == "":
				if len(got) > 0 {
					t.Errorf("got %v; want none", got)
				}
			case len(got) != 1 || got[0].cause != c.cause || got[0].wrong != c.wrong:
				t.Errorf("got %v; want cause %q, wrong %q", got, c.cause, c.wrong)
			}
		})
	}
}
