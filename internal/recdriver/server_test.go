package recdriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"
)

const (
	lock7      = "SELECT pg_catalog.pg_advisory_xact_lock(7)"
	lockShared = "SELECT pg_catalog.pg_advisory_xact_lock_shared(7)"
	try7       = "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(7)"
	tryShared  = "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock_shared(7)"
)

func begin1(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

func affected(t *testing.T, tx *sql.Tx, query string, args ...any) int64 {
	t.Helper()
	res, err := tx.Exec(query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	n, _ := res.RowsAffected()
	return n
}

// background executes query in a transaction of its own and leaves that open.
func background(t *testing.T, ctx context.Context, db *sql.DB, query string) (*sql.Tx, <-chan error) {
	t.Helper()
	tx := begin1(t, db)
	done := make(chan error, 1)
	go func() {
		_, err := tx.ExecContext(ctx, query)
		done <- err
	}()
	return tx, done
}

func result(t *testing.T, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: not within 10 s", what)
		return nil
	}
}

func waiting(t *testing.T, s *Server, key int64, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d waiting", n), func() bool { return s.Waiting()[key] == n })
}

func held(t *testing.T, s *Server, want map[int64]int) {
	t.Helper()
	if got := s.Held(); !reflect.DeepEqual(got, want) {
		t.Errorf("held %v; want %v", got, want)
	}
}

// free checks that nothing is held, waited for or remembered.
func free(t *testing.T, s *Server) {
	t.Helper()
	eventually(t, "a free server", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.locks) == 0
	})
}

func TestLockEndsWithTransaction(t *testing.T) {
	s := NewServer()
	db := pool(t, s.Driver(Plain))
	for name, end := range map[string]func(*sql.Tx) error{
		"commit":   (*sql.Tx).Commit,
		"rollback": (*sql.Tx).Rollback,
	} {
		tx := begin1(t, db)
		if n := affected(t, tx, lock7); n != 1 {
			t.Errorf("%d rows; want 1", n)
		}
		affected(t, tx, "SELECT pg_advisory_xact_lock_shared(-9223372036854775808)")
		affected(t, tx, lock7) // again
		held(t, s, map[int64]int{7: 1, -9223372036854775808: 1})
		if err := end(tx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		free(t, s)
	}

	tx := begin1(t, db)
	affected(t, tx, lock7)
	db.Close()
	_ = tx.Rollback()
	free(t, s)
}

func TestLockOutsideTransaction(t *testing.T) {
	d := New()
	db := pool(t, d)
	if _, err := db.Exec(lock7); err != nil {
		t.Fatal(err)
	}
	free(t, d.Server())

	conn, err := db.Conn(bg)
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range []string{"BEGIN", lock7, "SELECT 1"} {
		if _, err := conn.ExecContext(bg, st); err != nil {
			t.Fatal(err)
		}
	}
	held(t, d.Server(), map[int64]int{7: 1})
	if _, err := conn.ExecContext(bg, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	free(t, d.Server())
	conn.Close()
}

func TestTry(t *testing.T) {
	s := NewServer()
	db1, db2 := pool(t, s.Driver(PGX)), pool(t, s.Driver(LibPQ))
	holder, other := begin1(t, db1), begin1(t, db2)
	for _, step := range []struct {
		tx    *sql.Tx
		query string
		want  int64
	}{
		{holder, tryShared, 1},
		{other, try7, 0},
		{other, tryShared, 1},
		{holder, try7, 0}, // the other one's shared lock is in the way
		{holder, "SELECT 1 WHERE pg_try_advisory_xact_lock(8)", 1},
		{other, "SELECT 1 WHERE pg_try_advisory_xact_lock(8)", 0},
		{other, "SELECT 1 WHERE pg_try_advisory_xact_lock_shared(8)", 0},
		{other, "SELECT pg_try_advisory_xact_lock(8)", 1}, // a row with false in it
		{other, "SELECT 1 WHERE pg_try_advisory_xact_lock(9) AND pg_try_advisory_xact_lock(8)", 0},
	} {
		if got := affected(t, step.tx, step.query); got != step.want {
			t.Errorf("%s: %d rows; want %d", step.query, got, step.want)
		}
	}
	for query, want := range map[string]bool{
		"SELECT pg_try_advisory_xact_lock(8)":  false,
		"SELECT pg_try_advisory_xact_lock(10)": true,
	} {
		var got bool
		if err := other.QueryRow(query).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %v, %v", query, got, err)
		}
	}
	var one int
	if err := other.QueryRow("SELECT 1 WHERE pg_try_advisory_xact_lock(8)").Scan(&one); !errors.Is(err, sql.ErrNoRows) {
		t.Errorf("error %v; want no rows", err)
	}
	var void string
	if err := other.QueryRow("SELECT pg_advisory_xact_lock($1)", 11).Scan(&void); err != nil || void != "" {
		t.Errorf("lock by query: %q, %v", void, err)
	}
}

// Who comes first is served first; shared waiters behind an exclusive one wait
// for it although they could go on, and then go on together.
func TestQueue(t *testing.T) {
	s := NewServer()
	db := pool(t, s.Driver(Plain))
	holder := begin1(t, db)
	affected(t, holder, lockShared)

	x1, x1Done := background(t, bg, db, lock7)
	waiting(t, s, 7, 1)
	s1, s1Done := background(t, bg, db, lockShared)
	waiting(t, s, 7, 2)
	s2, s2Done := background(t, bg, db, lockShared)
	waiting(t, s, 7, 3)
	x2, x2Done := background(t, bg, db, lock7)
	waiting(t, s, 7, 4)
	if n := affected(t, begin1(t, db), tryShared); n != 0 {
		t.Error("a try overtook the queue")
	}
	affected(t, holder, lockShared) // again, not behind the queue

	step := func(end *sql.Tx, left int, done ...<-chan error) {
		t.Helper()
		if err := end.Commit(); err != nil {
			t.Fatal(err)
		}
		for _, d := range done {
			if err := result(t, "turn", d); err != nil {
				t.Fatal(err)
			}
		}
		waiting(t, s, 7, left)
		held(t, s, map[int64]int{7: len(done)})
	}
	step(holder, 3, x1Done)
	step(x1, 1, s1Done, s2Done)
	if err := s1.Commit(); err != nil {
		t.Fatal(err)
	}
	held(t, s, map[int64]int{7: 1})
	step(s2, 0, x2Done)
	if err := x2.Commit(); err != nil {
		t.Fatal(err)
	}
	free(t, s)
}

func TestQueueIsFIFO(t *testing.T) {
	s := NewServer()
	db := pool(t, s.Driver(Plain))
	holder := begin1(t, db)
	affected(t, holder, lock7)
	got := make(chan int, 20)
	var wg sync.WaitGroup
	for i := range cap(got) {
		tx := begin1(t, db)
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, _ = tx.Exec(lock7)
			got <- i
			_ = tx.Commit()
		}()
		waiting(t, s, 7, i+1)
	}
	if err := holder.Commit(); err != nil {
		t.Fatal(err)
	}
	for want := range cap(got) {
		if i := <-got; i != want {
			t.Fatalf("waiter %d came when it was %d's turn", i, want)
		}
	}
	wg.Wait()
	free(t, s)
}

// The ctx of a wait ends: each driver says something else, and
// none leaves a waiter or a lock on the server.
func TestWaitEndsWithContext(t *testing.T) {
	for mode, want := range map[Mode]struct {
		isCtx  bool
		state  string
		order  string
		reused string
	}{
		Plain: {false, "57014", "exec! > rollback > release", "take > begin > rollback > release"},
		PGX:   {true, "", "exec! > rollback! > release", "take! > close > connect > begin > rollback > release"},
		LibPQ: {false, "57014", "exec! > rollback! > close", "connect > begin > rollback > release"},
	} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			s := NewServer()
			holder := begin1(t, pool(t, s.Driver(Plain)))
			affected(t, holder, lock7)

			for _, deadline := range []bool{true, false} {
				d := s.Driver(mode)
				db := pool(t, d)
				if err := db.Ping(); err != nil {
					t.Fatal(err)
				}
				tx := begin1(t, db)
				affected(t, tx, "SELECT pg_advisory_xact_lock(8)")
				d.Reset()
				ctx, cancel := context.WithCancel(bg)
				if deadline {
					ctx, cancel = context.WithTimeout(bg, 100*time.Millisecond)
				}
				defer cancel()
				done := make(chan error, 1)
				go func() {
					_, err := tx.ExecContext(ctx, lock7)
					done <- err
				}()
				if !deadline {
					waiting(t, s, 7, 1)
					cancel()
				}
				err := result(t, "end of ctx", done)
				if got := errors.Is(err, ctx.Err()); got != want.isCtx {
					t.Errorf("errors.Is(%v, %v): %v", err, ctx.Err(), got)
				}
				var state interface{ SQLState() string }
				if want.state != "" && (!errors.As(err, &state) || state.SQLState() != want.state) {
					t.Errorf("error %v; want SQLSTATE %s", err, want.state)
				}
				waiting(t, s, 7, 0)
				_ = tx.Rollback()
				held(t, s, map[int64]int{7: 1})
				if got := d.String(); got != want.order {
					t.Errorf("got  %s\nwant %s", got, want.order)
				}
				d.Reset()
				_ = begin1(t, db).Rollback()
				if got := d.String(); got != want.reused {
					t.Errorf("next:\ngot  %s\nwant %s", got, want.reused)
				}
			}
		})
	}
}

// A waiter that gives up lets those behind it through.
func TestGivingUpMovesTheQueue(t *testing.T) {
	s := NewServer()
	db := pool(t, s.Driver(Plain))
	affected(t, begin1(t, db), lockShared)
	ctx, cancel := context.WithCancel(bg)
	_, first := background(t, ctx, db, lock7)
	waiting(t, s, 7, 1)
	_, second := background(t, bg, db, lockShared)
	waiting(t, s, 7, 2)
	cancel()
	if err := result(t, "first", first); err == nil {
		t.Error("the first got the lock")
	}
	if err := result(t, "second", second); err != nil {
		t.Error(err)
	}
}

func TestStatementAfterContext(t *testing.T) {
	ctx, cancel := context.WithCancel(bg)
	cancel()
	for mode, want := range map[Mode]error{Plain: errCancelled, PGX: driver.ErrBadConn, LibPQ: errCancelled} {
		// Not a transaction: for that, database/sql looks at ctx itself.
		conn, err := pool(t, NewServer().Driver(mode)).Conn(bg)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.ExecContext(ctx, lock7); !errors.Is(err, want) {
			t.Errorf("mode %d: error %v; want %v", mode, err, want)
		}
	}
}

func TestLockTimeout(t *testing.T) {
	s := NewServer()
	db := pool(t, s.Driver(Plain))
	holder := begin1(t, db)
	affected(t, holder, lock7)
	for _, set := range []string{
		"SET LOCAL lock_timeout = '20ms'; ",
		"set local lock_timeout to 20; ",
		"SELECT pg_catalog.set_config('lock_timeout', '20', true); ",
	} {
		tx := begin1(t, db)
		if _, err := tx.Exec(set + lock7); !errors.Is(err, errTimeout) {
			t.Errorf("%s: error %v; want 55P03", set, err)
		}
		if _, err := tx.Exec("SELECT 1"); !errors.Is(err, errAborted) {
			t.Errorf("%s: error %v; want 25P02", set, err)
		}
		_ = tx.Rollback()
	}
	waiting(t, s, 7, 0)

	for _, unset := range []string{
		"SET LOCAL lock_timeout = '20ms'; SET LOCAL lock_timeout = 0; ",
		"SELECT set_config('lock_timeout', current_setting('lock_timeout'), true); ",
	} {
		tx, done := background(t, bg, db, unset+lock7)
		waiting(t, s, 7, 1)
		select {
		case err := <-done:
			t.Errorf("%s: %v", unset, err)
		case <-time.After(40 * time.Millisecond):
		}
		if err := holder.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := result(t, unset, done); err != nil {
			t.Errorf("%s: %v", unset, err)
		}
		holder = tx
	}
}

func TestParametersAndOtherStatements(t *testing.T) {
	s := NewServer()
	d := s.Driver(Plain)
	db := pool(t, d)
	d.OnExec(func(c Call) (int64, error) { return int64(len(c.Query)), nil })
	tx := begin1(t, db)
	affected(t, tx, "SELECT pg_advisory_xact_lock($1::bigint)", 5)
	affected(t, tx, "select PG_ADVISORY_XACT_LOCK ( '-6'::bigint )")
	affected(t, tx, "SELECT pg_advisory_xact_lock((-8)::bigint); SET LOCAL x = 'a;b'")
	st, err := tx.Prepare("SELECT pg_advisory_xact_lock_shared($2)")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Exec(1, 2); err != nil {
		t.Fatal(err)
	}
	held(t, s, map[int64]int{5: 1, -6: 1, -8: 1, 2: 1})

	const text = "SELECT pg_advisory_xact_lock(5); INSERT"
	if n := affected(t, tx, text); n != int64(len(text)) {
		t.Errorf("%d rows: the last statement was not asked for", n)
	}
	if _, err := tx.Exec("SELECT 1; SELECT 2", 1); !errors.Is(err, errCommands) {
		t.Errorf("two statements with an argument: %v", err)
	}
}

func TestSplit(t *testing.T) {
	for text, want := range map[string][]string{
		"":                          nil,
		" ; a;;b ":                  {"a", "b"},
		`a ';' ";" ; b`:             {`a ';' ";"`, "b"},
		"DO $$ a; b $$; c":          {"DO $$ a; b $$", "c"},
		"DO $x$ a; $$; $x$; SET $1": {"DO $x$ a; $$; $x$", "SET $1"},
		"a -- it's; x\n; b -- c":    {"a", "b"},
		"a /* it's; */ b; /* c */":  {"a   b"},
		"a - b / c;":                {"a - b / c"},
		"DO $$ open; b":             {"DO $$ open; b"},
	} {
		if got := split(text); !reflect.DeepEqual(got, want) {
			t.Errorf("split(%q) = %q; want %q", text, got, want)
		}
	}
}

// pg_terminate_backend on the holder.
func TestKill(t *testing.T) {
	for mode, want := range map[Mode]struct {
		err   error
		order string
	}{
		Plain: {errTerminated, "connect > begin > exec > commit! > release! > close"},
		PGX:   {errTerminated, "connect > begin > exec > commit! > release"},
		LibPQ: {driver.ErrBadConn, "connect > begin > exec > commit! > close"},
	} {
		s := NewServer()
		d := s.Driver(mode)
		db := pool(t, d)
		tx := begin1(t, db)
		affected(t, tx, lock7)
		_, next := background(t, bg, pool(t, s.Driver(Plain)), lock7)
		waiting(t, s, 7, 1)
		if n := s.Kill(7); n != 1 {
			t.Errorf("killed %d; want 1", n)
		}
		if err := result(t, "next", next); err != nil {
			t.Error(err)
		}
		if err := tx.Commit(); !errors.Is(err, want.err) {
			t.Errorf("mode %d: error %v; want %v", mode, err, want.err)
		}
		if got := d.String(); got != want.order {
			t.Errorf("mode %d:\ngot  %s\nwant %s", mode, got, want.order)
		}
		if err := transaction(bg, db); err != nil {
			t.Errorf("mode %d: next transaction: %v", mode, err)
		}
	}
	if n := NewServer().Kill(7); n != 0 {
		t.Errorf("killed %d of none", n)
	}
}

func TestKillWaiter(t *testing.T) {
	for mode, want := range map[Mode]error{Plain: errTerminated, PGX: errTerminated, LibPQ: driver.ErrBadConn} {
		s := NewServer()
		affected(t, begin1(t, pool(t, s.Driver(Plain))), lock7)
		d := s.Driver(mode)
		_, done := background(t, bg, pool(t, d), lock7)
		waiting(t, s, 7, 1)
		if !d.Kill(1) || d.Kill(2) {
			t.Error("Kill took the wrong connection")
		}
		if err := result(t, "victim", done); !errors.Is(err, want) {
			t.Errorf("mode %d: error %v; want %v", mode, err, want)
		}
		held(t, s, map[int64]int{7: 1})
		waiting(t, s, 7, 0)
	}
	if Wrap(New()).Kill(1) {
		t.Error("killed a connection of another driver")
	}
}

// The server ends a holder that has gone silent.
func TestIdleInTransaction(t *testing.T) {
	const ttl = 200 * time.Millisecond
	s := NewServer()
	db := pool(t, s.Driver(Plain))
	tx := begin1(t, db)
	affected(t, tx, fmt.Sprintf("SET LOCAL idle_in_transaction_session_timeout = '%dms'; %s", ttl.Milliseconds(), lock7))
	_, next := background(t, bg, db, lock7)
	for start := time.Now(); time.Since(start) < 3*ttl; time.Sleep(ttl / 10) {
		affected(t, tx, "SELECT 1")
	}
	held(t, s, map[int64]int{7: 1})
	select {
	case err := <-next:
		t.Fatalf("the lock was lost under heartbeats: %v", err)
	default:
	}
	if err := result(t, "next", next); err != nil {
		t.Error(err)
	}
	if _, err := tx.Exec("SELECT 1"); !errors.Is(err, errIdle) {
		t.Errorf("error %v; want 25P03", err)
	}

	// A transaction that ends takes the setting with it.
	tx = begin1(t, db)
	affected(t, tx, "SET LOCAL idle_in_transaction_session_timeout = 1")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	tx = begin1(t, db)
	time.Sleep(20 * time.Millisecond)
	affected(t, tx, "SELECT 1")
}

// What a simulation sees of the server.
func TestServerTellsOfItsTransactions(t *testing.T) {
	d := New()
	db := d.OpenDB()
	defer db.Close()
	var told [][]string
	d.Server().OnCommit(func(statements []string) { told = append(told, statements) })
	work := func(end func(*sql.Tx) error) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		for _, st := range []string{"SELECT pg_advisory_xact_lock(7)", "INSERT 1"} {
			if _, err := tx.Exec(st); err != nil {
				return err
			}
		}
		if !d.Holds(7) || d.Holds(8) {
			t.Error("Holds is wrong about the lock")
		}
		return end(tx)
	}
	if err := work((*sql.Tx).Commit); err != nil {
		t.Fatal(err)
	}
	if err := work((*sql.Tx).Rollback); err != nil {
		t.Fatal(err)
	}
	err := work(func(tx *sql.Tx) error {
		d.KillAll()
		return tx.Commit()
	})
	if err == nil {
		t.Error("a COMMIT of a session that had ended succeeded")
	}
	if fmt.Sprint(told) != "[[INSERT 1]]" {
		t.Errorf("told of %q; want the one transaction that was committed", told)
	}
	if d.Holds(7) {
		t.Error("a lock is left")
	}
}

func TestLaterAnswersLate(t *testing.T) {
	d := New()
	db := d.OpenDB()
	defer db.Close()
	locked, answered := false, make(chan struct{})
	d.OnCall(func(_ context.Context, c *Call) error {
		if c.Kind != Exec {
			return nil
		}
		return Later(func() { locked = d.Holds(7); close(answered) })
	})
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("SELECT pg_advisory_xact_lock(7)"); err != nil {
		t.Error(err)
	}
	<-answered
	if !locked {
		t.Error("the answer was awaited before the lock was there")
	}
	d.Forget()
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if n := len(d.Calls()); n != 0 {
		t.Errorf("%d calls are recorded after Forget", n)
	}
}
