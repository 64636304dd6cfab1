package recdriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var bg = context.Background()

// pool opens a pool on d and checks at the end that it leaves no connection.
func pool(t *testing.T, d *Driver) *sql.DB {
	t.Helper()
	db := d.OpenDB()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if n := d.Open(); n != 0 {
			t.Errorf("%d connections left open", n)
		}
	})
	return db
}

func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: not within 10 s", what)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// work asks everything that can be asked of a driver, and goes on after errors.
func work(ctx context.Context, db *sql.DB) (log []string) {
	note := func(what string, v any, err error) {
		log = append(log, fmt.Sprintf("%s: %v, %v", what, v, err))
	}
	scan := func(what string, rows *sql.Rows, err error) {
		if err != nil {
			note(what, nil, err)
			return
		}
		defer rows.Close()
		var all []string
		for rows.Next() {
			var s any
			err = rows.Scan(&s)
			all = append(all, fmt.Sprint(s))
		}
		note(what, all, errors.Join(err, rows.Err()))
	}
	affected := func(what string, res sql.Result, err error) {
		var n int64
		if err == nil {
			n, err = res.RowsAffected()
		}
		note(what, n, err)
	}
	prepared := func(what string, st *sql.Stmt, err error) {
		if err != nil {
			note(what, nil, err)
			return
		}
		res, err := st.ExecContext(ctx, 4)
		affected(what+" exec", res, err)
		rows, err := st.QueryContext(ctx, 5)
		scan(what+" query", rows, err)
		note(what+" close", nil, st.Close())
	}

	note("ping", nil, db.PingContext(ctx))
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: true})
	note("begin", nil, err)
	if err != nil {
		tx, err = db.BeginTx(ctx, nil)
		note("plain begin", nil, err)
	}
	if err == nil {
		res, err := tx.ExecContext(ctx, "INSERT 1")
		affected("exec", res, err)
		res, err = tx.ExecContext(ctx, "INSERT $1", 1)
		affected("exec args", res, err)
		rows, err := tx.QueryContext(ctx, "SELECT 1")
		scan("query", rows, err)
		rows, err = tx.QueryContext(ctx, "SELECT $1", 2)
		scan("query args", rows, err)
		st, err := tx.PrepareContext(ctx, "SELECT $1 again")
		prepared("prepare", st, err)
		note("commit", nil, tx.Commit())
	}
	if tx, err = db.BeginTx(ctx, nil); err == nil {
		note("rollback", nil, tx.Rollback())
	} else {
		note("second begin", nil, err)
	}
	conn, err := db.Conn(ctx)
	note("conn", nil, err)
	if err == nil {
		note("conn close", nil, conn.Close())
	}
	return log
}

const workOrder = "connect > ping > release > take > begin > exec > exec args > query > query args > " +
	"prepare > stmt exec > stmt query > stmt close > commit > release > " +
	"take > begin > rollback > release > take > release"

// everything answers like a server that knows work's statements.
func everything() *Driver {
	d := New()
	d.OnExec(func(c Call) (int64, error) { return int64(len(c.Query)), nil })
	d.OnQuery(func(c Call) ([]string, [][]driver.Value, error) {
		return []string{"q"}, [][]driver.Value{{c.Query}, {int64(len(c.Args))}}, nil
	})
	return d
}

func TestEveryKindIsSeen(t *testing.T) {
	d := everything()
	db := d.OpenDB()
	for _, line := range work(bg, db) {
		if !strings.HasSuffix(line, ", <nil>") {
			t.Errorf("failed: %s", line)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := d.String(), workOrder+" > close"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for i, c := range d.Calls() {
		if c.Conn != 1 {
			t.Errorf("call %d %s: connection %d; want 1", i, c.Kind, c.Conn)
		}
		if c.End.Before(c.Start) {
			t.Errorf("call %d %s: ends before it starts", i, c.Kind)
		}
		switch c.Kind {
		case ExecArgs:
			if c.Query != "INSERT $1" || len(c.Args) != 1 || c.Args[0].Value != int64(1) {
				t.Errorf("exec args: %q, %v", c.Query, c.Args)
			}
		case StmtExec:
			if c.Query != "SELECT $1 again" || len(c.Args) != 1 || c.Args[0].Value != int64(4) {
				t.Errorf("stmt exec: %q, %v", c.Query, c.Args)
			}
		}
	}
	begin := d.Calls()[4]
	if begin.Kind != Begin || begin.Isolation != sql.LevelReadCommitted || !begin.ReadOnly {
		t.Errorf("begin: %+v", begin)
	}
	d.Reset()
	if got := d.String(); got != "" {
		t.Errorf("after Reset: %s", got)
	}
}

func TestConnectionsAreNumbered(t *testing.T) {
	d := New()
	db := pool(t, d)
	for i := range 3 {
		c, err := db.Conn(bg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := d.Calls()[i].Conn; got != i+1 {
			t.Errorf("got connection %d; want %d", got, i+1)
		}
	}
	if got := d.Open(); got != 3 {
		t.Errorf("%d connections open; want 3", got)
	}
}

// transaction is one transaction with one statement.
func transaction(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT"); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func TestFailingCalls(t *testing.T) {
	boom := errors.New("boom")
	for _, test := range []struct {
		kind Kind
		err  error
		want string
	}{
		{Connect, boom, "connect!"},
		{Begin, boom, "connect > begin! > release"},
		{Exec, boom, "connect > begin > exec! > rollback > release"},
		{Commit, boom, "connect > begin > exec > commit! > release"},
		{Commit, driver.ErrBadConn, "connect > begin > exec > commit! > close"},
		{Release, boom, "connect > begin > exec > commit > release! > close"},
	} {
		t.Run(fmt.Sprintf("%s/%v", test.kind, test.err), func(t *testing.T) {
			d := New()
			db := pool(t, d)
			d.OnCall(FailOn(test.kind, "", 0, test.err))
			err := transaction(bg, db)
			if wantErr := test.kind != Release; wantErr && !errors.Is(err, test.err) || !wantErr && err != nil {
				t.Errorf("error %v", err)
			}
			if got := d.String(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			d.OnCall(nil)
			if err := transaction(bg, db); err != nil {
				t.Errorf("without the hook: %v", err)
			}
		})
	}
}

// Every kind fails where it is told to, and only there.
func TestFailAtEveryKind(t *testing.T) {
	boom := errors.New("boom")
	for _, kind := range []Kind{
		Connect, Take, Ping, Begin, Exec, ExecArgs, Query, QueryArgs,
		Prepare, StmtExec, StmtQuery, StmtClose, Commit, Rollback, Release, Close,
	} {
		t.Run(string(kind), func(t *testing.T) {
			d := everything()
			d.OnCall(FailOn(kind, "", 1, boom))
			db := d.OpenDB()
			work(bg, db)
			_ = db.Close()
			failed := 0
			for _, c := range d.Calls() {
				switch {
				case c.Kind == kind && errors.Is(c.Err, boom):
					failed++
				case c.Err != nil:
					t.Errorf("%s failed: %v", c.Kind, c.Err)
				}
			}
			if failed != 1 {
				t.Errorf("failed %d times; want 1: %s", failed, d)
			}
			if n := d.Open(); n != 0 {
				t.Errorf("%d connections left open", n)
			}
		})
	}
}

func TestFailOnNthMatch(t *testing.T) {
	d := New()
	db := pool(t, d)
	boom := errors.New("boom")
	d.OnCall(FailOn(Exec, "lock", 2, boom))
	for i, q := range []string{"a lock", "other", "b lock", "c lock"} {
		_, err := db.Exec(q)
		if want := i == 2; errors.Is(err, boom) != want {
			t.Errorf("%s: error %v", q, err)
		}
	}
}

// The first hook to fail is the last to run.
func TestSeveralHooks(t *testing.T) {
	d := New()
	db := pool(t, d)
	var ran []int
	for i := range 3 {
		d.OnCall(func(_ context.Context, c *Call) error {
			ran = append(ran, i)
			c.Query = "changed"
			if i == 1 {
				return errors.New("boom")
			}
			return nil
		})
	}
	if err := db.Ping(); err == nil {
		t.Error("no error")
	}
	if want := []int{0, 1}; !reflect.DeepEqual(ran, want) {
		t.Errorf("hooks ran: %v; want %v", ran, want)
	}
	if got := d.Calls()[0].Query; got != "" {
		t.Errorf("a hook changed the record: %q", got)
	}
	d.OnCall(nil)
}

// A COMMIT whose answer is lost is a COMMIT.
func TestAfter(t *testing.T) {
	lost := errors.New("lost")
	inner := New()
	d := Wrap(inner)
	db := pool(t, d)
	for _, kind := range []Kind{Connect, Begin, Exec, Commit} {
		inner.Reset()
		d.OnCall(FailOn(kind, "", 1, After(lost)))
		if err := transaction(bg, db); !errors.Is(err, lost) {
			t.Errorf("%s: error %v", kind, err)
		}
		d.OnCall(nil)
		want := map[Kind]string{
			Connect: "connect > close",
			Begin:   "connect > begin > rollback > release",
			Exec:    "take > begin > exec > rollback > release",
			Commit:  "take > begin > exec > commit > release",
		}[kind]
		if got := inner.String(); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", kind, got, want)
		}
	}
}

func TestHangOn(t *testing.T) {
	for _, kind := range []Kind{Connect, Begin, Exec, Commit, Release} {
		t.Run(string(kind), func(t *testing.T) {
			d := New()
			db := pool(t, d)
			release := make(chan struct{})
			d.OnCall(HangOn(kind, "", release))
			started := d.Started(kind, "", 1)
			ctx, cancel := context.WithCancel(bg)
			defer cancel()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = transaction(ctx, db)
			}()
			within(t, "start", started)
			cancel() // which HangOn does not care for
			select {
			case <-done:
				t.Error("came back before release")
			case <-time.After(20 * time.Millisecond):
			}
			if got, want := d.String(), string(kind)+"..."; !strings.HasSuffix(got, want) {
				t.Errorf("got %s; want %s at the end", got, want)
			}
			close(release)
			within(t, "release", done)
			eventually(t, "end", func() bool { return !strings.Contains(d.String(), "...") && db.Stats().InUse == 0 })
		})
	}
}

func TestBlockOnObeysContext(t *testing.T) {
	d := New()
	db := pool(t, d)
	d.OnCall(BlockOn(Exec, "", nil))
	ctx, cancel := context.WithTimeout(bg, 10*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestDelayOn(t *testing.T) {
	d := New()
	db := pool(t, d)
	d.OnCall(DelayOn(Exec, "slow", 30*time.Millisecond))
	for _, q := range []string{"slow", "fast"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	calls := d.Calls()
	if took := calls[1].End.Sub(calls[1].Start); took < 30*time.Millisecond {
		t.Errorf("slow took %v", took)
	}
}

func TestPanicOn(t *testing.T) {
	d := New()
	db := pool(t, d)
	db.SetMaxOpenConns(1)
	d.OnCall(PanicOn(Exec, "", 1, "boom"))
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v", p)
			}
		}()
		_, _ = db.Exec("x")
	}()
	if got, want := d.String(), "connect > exec! > release"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	if _, err := db.Exec("x"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestStartedAfterTheFact(t *testing.T) {
	d := New()
	db := pool(t, d)
	for range 2 {
		if _, err := db.Exec("x"); err != nil {
			t.Fatal(err)
		}
	}
	within(t, "the past", d.Started(Exec, "x", 2))
	third := d.Started("", "x", 3)
	select {
	case <-third:
		t.Error("a third call was seen")
	default:
	}
	if _, err := db.Exec("x"); err != nil {
		t.Fatal(err)
	}
	within(t, "the third", third)
}

func TestErrors(t *testing.T) {
	const name = "pg_namespace_nspname_index"
	var state interface{ SQLState() string }
	if err := fmt.Errorf("x: %w", SQLError{Code: "23505", Constraint: name}); !errors.As(err, &state) ||
		state.SQLState() != "23505" || !strings.Contains(err.Error(), name) {
		t.Errorf("SQLError: %v", err)
	}
	state = nil
	var get interface{ Get(byte) string }
	err := fmt.Errorf("x: %w", LegacySQLError{Code: "23505", Constraint: name})
	if !errors.As(err, &get) || errors.As(err, &state) {
		t.Fatalf("LegacySQLError has the wrong methods: %v", err)
	}
	if get.Get('C') != "23505" || get.Get('n') != name || !strings.Contains(get.Get('M'), name) || get.Get('x') != "" {
		t.Errorf("LegacySQLError: %v", err)
	}
}

// An error of the server aborts the transaction, whoever made it up.
func TestAbortedTransaction(t *testing.T) {
	d := New()
	db := pool(t, d)
	clash := SQLError{Code: "23505", Constraint: "c"}
	for name, setUp := range map[string]func(){
		"answer": func() { d.OnExec(func(Call) (int64, error) { return 0, clash }) },
		"hook":   func() { d.OnCall(FailOn(Exec, "", 1, clash)) },
	} {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		setUp()
		if _, err := tx.Exec("first"); !errors.Is(err, clash) {
			t.Errorf("%s: error %v", name, err)
		}
		d.OnExec(nil)
		d.OnCall(nil)
		if _, err := tx.Exec("second"); !errors.Is(err, errAborted) {
			t.Errorf("%s: error %v; want 25P02", name, err)
		}
		if err := tx.Commit(); err == nil {
			t.Errorf("%s: commit of an aborted transaction succeeded", name)
		}
	}
	if err := transaction(bg, db); err != nil {
		t.Errorf("next transaction: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	d := New()
	db := pool(t, d)
	db.SetMaxOpenConns(5)
	var wg sync.WaitGroup
	for range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := transaction(bg, db); err != nil {
				t.Error(err)
			}
			_, _ = d.String(), d.Open()
		}()
	}
	wg.Wait()
	commits := 0
	for _, c := range d.Calls() {
		if c.Kind == Commit {
			commits++
		}
	}
	if commits != 50 {
		t.Errorf("%d commits; want 50", commits)
	}
}

func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		buf := make([]byte, 1<<20)
		fmt.Printf("%d goroutines left:\n%s\n", n-before, buf[:runtime.Stack(buf, true)])
		code = 1
	}
	os.Exit(code)
}
