// Package legacy runs the conformance suite with drivers that are not the
// current ones: the oldest lib/pq, and a driver wrapped in another. It is a
// module of its own, since a module can have but one version of lib/pq.
package legacy

import (
	"errors"
	"testing"

	"github.com/XSAM/otelsql"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"

	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/test/conformance/matrix"
	"github.com/bootlock/bootlock/test/pgtest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// The suite proves something about Get('C') only as long as there is no other
// way to the code.
func TestErrorsOfThisVersionHaveGetOnly(t *testing.T) {
	var err error = &pq.Error{Code: "42501"}
	var modern interface{ SQLState() string }
	if errors.As(err, &modern) {
		t.Fatal("got SQLState; want a version of lib/pq without it")
	}
	if got := sqlstate.Of(err); got != "42501" {
		t.Errorf("got %q; want 42501", got)
	}
}

func TestConformance(t *testing.T) {
	matrix.Run(t, []matrix.Driver{
		{Name: "lib/pq 1.0.0", SQLName: "postgres", Trust: true},
		{Name: "otelsql", Mode: "lib/pq 1.0.0", SQLName: wrapped(t, "postgres")},
		{Name: "otelsql", Mode: "pgx", SQLName: wrapped(t, "pgx")},
	})
}

// wrapped is the name of a driver with otelsql around it.
func wrapped(t *testing.T, driver string) string {
	t.Helper()
	name, err := otelsql.Register(driver)
	if err != nil {
		t.Fatal(err)
	}
	return name
}
