package test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A commit can fail for the user's own reasons, such as a deferred constraint. The
// server has answered then, and the outcome is known.
func TestFailedCommit(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, driver string) {
		db := locktest.Pool(t, driver, pgtest.Shared(t).NewDB(t))
		sqltest.Exec(t, db, "CREATE TABLE done (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
		var trace locktrace.Recorder
		key := advisorylock.KeyOf(t.Name())
		err := advisorylock.Locker{Trace: trace.Trace()}.WithXactLock(t.Context(), db, key, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO done VALUES (1), (1)")
			return err
		})
		locktest.WantStep(t, err, locktrace.Commit)
		if sqlstate.Of(err) != "23505" || errors.Is(err, advisorylock.ErrLost) || !strings.Contains(err.Error(), "nothing was committed") {
			t.Errorf("got %v; want 23505, not ErrLost, and that nothing was committed", err)
		}
		if got, want := trace.String(), "connect > begin > lock > commit! > release"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}
