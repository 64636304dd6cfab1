package oteltrace_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/examples/oteltrace"
	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

func ExampleTrace() {
	spans := tracetest.NewSpanRecorder() // your exporter
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("bootlock")
	db := recdriver.New().OpenDB() // your *sql.DB
	defer db.Close()

	ctx, start := tracer.Start(context.Background(), "start")
	guard := schemaguard.Guard{Trace: oteltrace.Trace(tracer)}
	err := guard.Ensure(ctx, db, "app", func(ctx context.Context, _ *sql.DB) error {
		_, span := tracer.Start(ctx, "001_users.sql")
		defer span.End()
		return nil
	})
	start.End()

	printSpans(spans.Ended())
	fmt.Println(err)
	// Output:
	// start
	//   connect
	//   begin
	//   lock
	//   create schema
	//   commit
	//   release
	//   migrate
	//     001_users.sql
	// <nil>
}

// printSpans prints the spans in the order in which they began.
func printSpans(ended []sdktrace.ReadOnlySpan) {
	below := map[string][]sdktrace.ReadOnlySpan{}
	for _, s := range ended {
		parent := s.Parent().SpanID().String()
		below[parent] = append(below[parent], s)
	}
	var walk func(parent, indent string)
	walk = func(parent, indent string) {
		for _, s := range below[parent] {
			fmt.Println(indent + s.Name())
			walk(s.SpanContext().SpanID().String(), indent+"  ")
		}
	}
	walk("0000000000000000", "")
}

// The span of the lock is the place to look when a start-up is slow, so it has
// to say for whom it waited.
func TestLockSpanNamesTheHolder(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t).NewDB(t)
	holder := sqltest.Occupy(t, dsn, schemaguard.KeyFor("app"))
	spans := tracetest.NewSpanRecorder()
	tr := oteltrace.Trace(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("bootlock"))
	waiting := tr.Waiting
	tr.Waiting = func(ctx context.Context, w locktrace.Wait) {
		waiting(ctx, w)
		if err := holder.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
			t.Error(err)
		}
	}
	if err := (schemaguard.Guard{Trace: tr}).Ensure(t.Context(), sqltest.Open(t, "pgx", dsn), "app", nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range spans.Ended() {
		if s.Name() != string(locktrace.Lock) {
			continue
		}
		if len(s.Events()) == 0 {
			t.Fatal("the span of the lock has no event; want one that says who is in the way")
		}
		if got := fmt.Sprint(s.Events()[0].Attributes); !strings.Contains(got, "pid ") {
			t.Errorf("got event %s; want it to name the holder's pid", got)
		}
		return
	}
	t.Error("there is no span for the lock")
}

func TestFailedStepIsAFailedSpan(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	driver := recdriver.New()
	driver.OnCall(recdriver.FailOn("", "CREATE SCHEMA", 1, refused))
	db := driver.OpenDB()
	defer db.Close()
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("bootlock")
	err := schemaguard.Guard{Trace: oteltrace.Trace(tracer)}.Ensure(t.Context(), db, "app", nil)
	if !errors.Is(err, refused) {
		t.Fatalf("got %v; want %v", err, refused)
	}
	var failed []string
	for _, s := range spans.Ended() {
		if s.Status().Code == codes.Error {
			failed = append(failed, s.Name())
		}
	}
	if got, want := strings.Join(failed, ", "), string(locktrace.CreateSchema); got != want {
		t.Errorf("got failed spans %s; want %s", got, want)
	}
}
