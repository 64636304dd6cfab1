//go:build unix

package doctor_test

import (
	"testing"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/doctor"
	"github.com/bootlock/bootlock/test/replica"
)

// Locks on a standby exclude nobody on the primary.
func TestStandbyFails(t *testing.T) {
	primary, standby := replica.NewFiles(t).Start(t)
	standby.CatchUp(t, primary)
	eachDriver(t, func(t *testing.T, driver string) {
		db := open(t, driver, standby.DSN())
		report, err := doctor.Run(t.Context(), db, open(t, driver, standby.DSN()))
		if err != nil {
			t.Fatal(err)
		}
		if f := find(t, report, "primary or standby"); report.Protects || f.Level != doctor.Fail {
			t.Errorf("got Protects %v, %+v; want a failure", report.Protects, f)
		}
		report, err = doctor.Run(t.Context(), open(t, driver, primary.DSN()), db)
		if err != nil {
			t.Fatal(err)
		}
		if f := find(t, report, "one server"); report.Protects || f.Level != doctor.Fail {
			t.Errorf("on both: got Protects %v, %+v; want two servers found out", report.Protects, f)
		}
	})
}
