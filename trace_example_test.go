package bootlock_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
)

// slogTrace logs each step at debug level, a failed one as an error, and as a
// warning who is in the way if the wait for a lock lasts.
func slogTrace(log *slog.Logger) *locktrace.Trace {
	return &locktrace.Trace{
		Done: func(ctx context.Context, e locktrace.Event) {
			attrs := []any{"step", e.Step, "schema", e.Name, "took", e.Duration}
			if e.Err != nil {
				log.ErrorContext(ctx, "bootstrap", append(attrs, "error", e.Err)...)
				return
			}
			log.DebugContext(ctx, "bootstrap", attrs...)
		},
		Waiting: func(ctx context.Context, w locktrace.Wait) {
			log.WarnContext(ctx, "waiting for the lock", "schema", w.Name, "waited", w.Waited, "holders", fmt.Sprint(w.Holders))
		},
	}
}

// The start-up in the log, by log/slog.
func Example_slog() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "took" { // they differ each time
				return slog.Attr{}
			}
			return a
		},
	}))
	db := recdriver.New().OpenDB() // your *sql.DB
	defer db.Close()

	guard := schemaguard.Guard{Trace: slogTrace(logger)}
	if err := guard.Ensure(context.Background(), db, "app", nil); err != nil {
		logger.Error("start", "error", err)
	}
	// Output:
	// level=DEBUG msg=bootstrap step=connect schema=app
	// level=DEBUG msg=bootstrap step=begin schema=app
	// level=DEBUG msg=bootstrap step=lock schema=app
	// level=DEBUG msg=bootstrap step="create schema" schema=app
	// level=DEBUG msg=bootstrap step=commit schema=app
	// level=DEBUG msg=bootstrap step=release schema=app
}
