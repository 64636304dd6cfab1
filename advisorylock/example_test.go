package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// open stands for sql.Open("pgx", dsn) or sql.Open("postgres", dsn).
func open() *sql.DB { return recdriver.New().OpenDB() }

// One process at a time works in the transaction that has the lock.
func ExampleWithXactLock() {
	db := open()
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	key := advisorylock.KeyOf("report for March")
	err := advisorylock.WithXactLock(ctx, db, key, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO reports (month) VALUES ('2025-03') ON CONFLICT DO NOTHING")
		return err
	})
	if err != nil {
		fmt.Println(err) // says which step failed, and who was in the way
		return
	}
	fmt.Println("reported")
	// Output: reported
}

// A process that does not get the lock at once does something else.
func ExampleTryWithXactLock() {
	db := open()
	defer db.Close()
	ctx := context.Background()

	key := advisorylock.KeyOf("nightly clean-up")
	cleanUp := func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM sessions WHERE expires < now()")
		return err
	}
	err := advisorylock.WithXactLock(ctx, db, key, func(context.Context, *sql.Tx) error {
		// Somebody else, meanwhile:
		if err := advisorylock.TryWithXactLock(ctx, db, key, cleanUp); errors.Is(err, advisorylock.ErrNotAcquired) {
			fmt.Println("somebody else cleans up")
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output: somebody else cleans up
}

// Work that does not fit into one transaction uses the whole pool while the lock
// is held. It should look at its context, which ends when the lock is lost.
func ExampleHold() {
	db := open()
	defer db.Close()
	ctx := context.Background()

	key := advisorylock.KeyOf("migrations of app")
	err := advisorylock.Hold(ctx, db, key, func(ctx context.Context) error {
		for _, statement := range []string{
			"CREATE TABLE users (name text)",
			"CREATE INDEX CONCURRENTLY users_name ON users (name)",
		} {
			if _, err := db.ExecContext(ctx, statement); err != nil {
				return err
			}
			fmt.Println(statement)
		}
		return nil
	})
	if errors.Is(err, advisorylock.ErrLost) {
		fmt.Println("somebody else may have the lock by now")
	} else if err != nil {
		fmt.Println(err)
	}
	// Output:
	// CREATE TABLE users (name text)
	// CREATE INDEX CONCURRENTLY users_name ON users (name)
}

// "Not two at once" is not "once": the second process comes when the first has
// finished, and gets the lock. What must happen once needs a record that it has
// happened, and a look at that under the lock.
func ExampleTryHold() {
	db := open()
	defer db.Close()
	ctx := context.Background()

	reported := map[string]bool{} // a table, in a program
	report := func(night string) error {
		return advisorylock.TryHold(ctx, db, advisorylock.KeyOf("nightly report"), func(context.Context) error {
			if reported[night] {
				fmt.Println("already reported")
				return nil
			}
			fmt.Println("reporting")
			reported[night] = true
			return nil
		})
	}
	fmt.Println(report("2025-03-09")) // one process
	fmt.Println(report("2025-03-09")) // another one, a moment later
	// Output:
	// reporting
	// <nil>
	// already reported
	// <nil>
}

// A holder that was frozen goes on for an instant when it thaws, and one whose
// session was ended until it learns of that. A transaction that begins with Fence
// is not committed once the next holder has begun.
func ExampleFence() {
	db := open()
	defer db.Close()

	err := advisorylock.Hold(context.Background(), db, advisorylock.KeyOf("payouts"), func(ctx context.Context) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // does nothing after Commit
		if err := advisorylock.Fence(ctx, tx); err != nil {
			return err // ErrLost: somebody else may have begun
		}
		if _, err := tx.ExecContext(ctx, "UPDATE payouts SET sent = true WHERE NOT sent"); err != nil {
			return err
		}
		return tx.Commit()
	})
	fmt.Println(err)
	// Output: <nil>
}

// Sessions shows who holds a lock, who waits for it, and how to end them.
func ExampleSessions() {
	db := openWithHolder()
	defer db.Close()

	sessions, err := advisorylock.Sessions(context.Background(), db, advisorylock.KeyOf("app"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range sessions {
		fmt.Printf("pid %d (%s, %s) has it: %t\n", s.PID, s.Application, s.State, s.Granted)
		fmt.Println("to end it:", s.TerminateSQL())
	}
	// Output:
	// pid 13925 (billing, idle in transaction) has it: true
	// to end it: SELECT pg_catalog.pg_terminate_backend(13925)
}

// openWithHolder stands for a database in which somebody has the lock.
func openWithHolder() *sql.DB {
	d := recdriver.New()
	d.OnQuery(func(recdriver.Call) ([]string, [][]driver.Value, error) {
		since := float64(time.Date(2025, 3, 9, 6, 50, 28, 0, time.UTC).Unix())
		return []string{"pid", "application", "user", "host", "port", "state", "since", "query", "granted", "blocked by", "this key"},
			[][]driver.Value{{int64(13925), "billing", "app", "10.0.3.7", int64(45466), "idle in transaction", since, "", true, "", true}}, nil
	})
	return d.OpenDB()
}

// A Locker holds the options: here a name for errors, and a recorder of the steps.
func ExampleLocker() {
	db := open()
	defer db.Close()

	var recorder locktrace.Recorder
	locker := advisorylock.Locker{
		Name:  "tenant 42",
		TTL:   10 * time.Second, // a frozen holder has it no longer than that
		Trace: recorder.Trace(),
	}
	err := locker.WithXactLock(context.Background(), db, advisorylock.KeyOf("tenant 42"), func(context.Context, *sql.Tx) error {
		return errors.New("no such tenant")
	})
	fmt.Println(err)
	fmt.Println(recorder.String())
	// Output:
	// no such tenant
	// connect > begin > lock > rollback > release
}

// The key of a name is the same for ever, on every machine, and in SQL.
func ExampleKeyOf() {
	fmt.Println(advisorylock.KeyOf("app"))
	// Output: -6813155839046105269
}
