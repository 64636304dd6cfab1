// Package bench measures what the library costs, beside what one would write by
// hand. Ratios measured side by side in one run mean something on a busy machine;
// milliseconds do not.
package bench

import (
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/test/pgtest"
)

var drivers = []string{"pgx", "postgres"}

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}
