package wire

import (
	"context"
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/test/pgtest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

// A prepared statement is the control: it would be missed by a counter that takes
// statements for round trips.
func TestTrips(t *testing.T) {
	t.Parallel()
	w, err := New(pgtest.Shared(t).NewDB(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	for driver, prepared := range map[string]int64{"pgx": 2, "postgres": 2} {
		db, err := sql.Open(driver, w.DSN)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		db.SetMaxOpenConns(1)
		trips := func(statement string, args ...any) int64 {
			before := w.Trips()
			if _, err := db.ExecContext(context.Background(), statement, args...); err != nil {
				t.Fatal(err)
			}
			return w.Trips() - before
		}
		trips("SELECT 1")
		trips("SELECT 1") // before its second use, pgx looks whether the connection is alive
		if got := trips("SELECT 1"); got != 1 {
			t.Errorf("%s: a statement took %d round trips; want 1", driver, got)
		}
		if got := trips("SELECT $1::int", 1); got != prepared {
			t.Errorf("%s: a statement that is prepared first took %d round trips; want %d", driver, got, prepared)
		}
	}
}

// What a server sends arrives in pieces of any length.
func TestCounterOfPieces(t *testing.T) {
	t.Parallel()
	ready := []byte{'Z', 0, 0, 0, 5, 'I'}
	sent := append(append([]byte{'S', 0, 0, 0, 9, 'Z', 0, 0, 0, 5}, ready...), append(ready, ready...)...)
	for size := 1; size <= len(sent); size++ {
		n := 0
		c := counter{ready: func() { n++ }}
		for at := 0; at < len(sent); at += size {
			c.see(sent[at:min(at+size, len(sent))])
		}
		if n != 2 { // of three, the first is the end of the connection's start
			t.Errorf("in pieces of %d: got %d; want 2", size, n)
		}
	}
}
