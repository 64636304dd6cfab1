package locktrace_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// open stands for sql.Open("pgx", dsn) or sql.Open("postgres", dsn).
func open() *sql.DB { return recdriver.New().OpenDB() }

// A Recorder shows the order of the steps, in tests and when something is odd.
func ExampleRecorder() {
	db := open()
	defer db.Close()

	var steps locktrace.Recorder
	locker := advisorylock.Locker{Trace: steps.Trace()}
	err := locker.WithXactLock(context.Background(), db, 42, func(context.Context, *sql.Tx) error {
		return fmt.Errorf("not today")
	})
	fmt.Println(err)
	fmt.Println(&steps)
	// Output:
	// not today
	// connect > begin > lock > rollback > release
}

// Log writes a line when a wait begins to last, one every ten seconds or so
// while it goes on, and one when it is over.
func ExampleLog() {
	db := open()
	defer db.Close()
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTimes}))
	key := advisorylock.KeyOf("app")

	// Another holder, until the log has said that somebody waits for it.
	held, waited := make(chan struct{}), make(chan struct{})
	go func() {
		_ = advisorylock.Hold(context.Background(), db, key, func(context.Context) error {
			close(held)
			<-waited
			return nil
		})
	}()
	<-held

	trace := locktrace.Log(logger)
	logWait := trace.Waiting
	trace.Waiting = func(ctx context.Context, w locktrace.Wait) {
		logWait(ctx, w)
		close(waited)
	}
	locker := advisorylock.Locker{Name: "app", Trace: trace}
	fmt.Println(locker.Hold(context.Background(), db, key, func(context.Context) error { return nil }))
	// Output:
	// level=INFO msg="bootlock: waiting for the lock" lock=app
	// level=INFO msg="bootlock: the wait for the lock is over" lock=app
	// <nil>
}

func withoutTimes(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == "waited" || a.Key == "held_by" { // they differ each time
		return slog.Attr{}
	}
	return a
}

// A Trace of your own turns steps into spans or metrics. For tells the schema's
// lock, which is held for milliseconds, from that of migrate.
func ExampleTrace() {
	db := open()
	defer db.Close()

	trace := &locktrace.Trace{
		Done: func(_ context.Context, e locktrace.Event) {
			if e.Step == locktrace.Lock {
				fmt.Printf("observe lock_wait_seconds{for=%q, failed=%t}\n", e.For, e.Err != nil) // e.Duration.Seconds()
			}
		},
	}
	guard := schemaguard.Guard{Serialize: true, Trace: trace}
	_ = guard.Ensure(context.Background(), db, "app", func(context.Context, *sql.DB) error { return nil })
	// Output:
	// observe lock_wait_seconds{for="create schema", failed=false}
	// observe lock_wait_seconds{for="migrate", failed=false}
}
