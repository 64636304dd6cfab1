package test

import (
	"fmt"
	"os"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	"go.uber.org/goleak"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
)

// drivers are the database/sql drivers that every integration test runs with.
var drivers = []string{"pgx", "postgres"}

func TestMain(m *testing.M) {
	if name := os.Getenv(envChild); name != "" {
		if err := runChild(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	pgtest.Shutdown()
	if code == 0 {
		if err := goroutinesEnd(); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL: a test leaves goroutines behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// goroutinesEnd waits for the goroutines of all tests to end: those of the library, and
// those of a driver that a call gave up on. It looks once for all, so that tests can run
// in parallel; to find out which one leaves something, run them one at a time.
func goroutinesEnd() (err error) {
	for deadline := time.Now().Add(await.Limit); time.Now().Before(deadline); {
		if err = goleak.Find(); err == nil {
			break
		}
	}
	return err
}

// eachDriver runs test once per driver, as a subtest.
func eachDriver(t *testing.T, test func(t *testing.T, driver string)) {
	t.Helper()
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) { test(t, driver) })
	}
}
