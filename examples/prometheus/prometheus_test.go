package prometheus_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	example "github.com/bootlock/bootlock/examples/prometheus"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// A start has two locks, and their histograms are two.
func TestTheTwoLocksAreApart(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	db := recdriver.New().OpenDB()
	defer db.Close()
	guard := schemaguard.Guard{Serialize: true, Trace: example.Trace(reg)}
	if err := guard.Ensure(t.Context(), db, "app", func(context.Context, *sql.DB) error { return nil }); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	locks := map[string]uint64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["step"] == "lock" && labels["result"] == "ok" {
				locks[labels["for"]] += m.GetHistogram().GetSampleCount()
			}
		}
	}
	if len(locks) != 2 || locks["create schema"] != 1 || locks["migrate"] != 1 {
		t.Errorf("got locks %v; want one for create schema and one for migrate", locks)
	}
}

func TestAWaitShowsWhileItLasts(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	trace := example.Trace(reg)
	gauge := func(value string) {
		t.Helper()
		want := "# HELP bootlock_waited_seconds How long the wait for a lock that is under way has lasted; 0 if none is.\n" +
			"# TYPE bootlock_waited_seconds gauge\n" +
			`bootlock_waited_seconds{for="migrate",name="app"} ` + value + "\n"
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "bootlock_waited_seconds"); err != nil {
			t.Error(err)
		}
	}
	trace.Waiting(t.Context(), locktrace.Wait{Name: "app", For: locktrace.Migrate, Waited: 11 * time.Second})
	gauge("11")
	trace.Done(t.Context(), locktrace.Event{Step: locktrace.Lock, Name: "app", For: locktrace.Migrate})
	gauge("0")
}
