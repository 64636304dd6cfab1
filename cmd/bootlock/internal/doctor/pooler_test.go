package doctor_test

import (
	"strings"
	"testing"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/doctor"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

func eachDriver(t *testing.T, test func(t *testing.T, driver string)) {
	t.Helper()
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) { test(t, driver) })
	}
}

// In statement mode PgBouncer refuses every transaction.
func TestStatementModeFails(t *testing.T) {
	bouncer := pgbouncer.New(t, pgtest.Shared(t), "statement", pgbouncer.Plenty)
	eachDriver(t, func(t *testing.T, driver string) {
		report := examine(t, driver, bouncer.DSN(pgtest.Shared(t).NewDB(t)))
		if f := find(t, report, "transactions"); report.Protects || f.Level != doctor.Fail || !strings.Contains(f.Advice, "pool_mode") {
			t.Errorf("got %+v; want a failure with advice on pool_mode", f)
		}
	})
}

func TestSeesThePooler(t *testing.T) {
	for mode, want := range map[string]string{"transaction": "transaction mode", "session": "session mode"} {
		t.Run(mode, func(t *testing.T) {
			bouncer := pgbouncer.New(t, pgtest.Shared(t), mode, pgbouncer.Plenty)
			eachDriver(t, func(t *testing.T, driver string) {
				report := examine(t, driver, bouncer.DSN(pgtest.Shared(t).NewDB(t)))
				for _, f := range report.Findings {
					if f.Level != doctor.OK {
						t.Errorf("got %+v; want every finding ok", f)
					}
				}
				if f := find(t, report, "pooler"); !strings.Contains(f.Text, want) {
					t.Errorf("got %q; want %q in it", f.Text, want)
				}
			})
		})
	}
}
