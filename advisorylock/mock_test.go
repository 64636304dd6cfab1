//go:build go1.25

package advisorylock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/bridge"
)

// mock is a driver that answers every statement as it was told to, as those do that
// people mock databases with: a result has a LastInsertId, and a connection that is
// closed unexpectedly is gone for good.
type mock struct {
	rows   int64
	commit error
	calls  []string
}

func (m *mock) Connect(context.Context) (driver.Conn, error) { return mockConn{m}, nil }
func (m *mock) Driver() driver.Driver                        { return nil }
func (m *mock) call(what string)                             { m.calls = append(m.calls, what) }
func (m *mock) String() string                               { return strings.Join(m.calls, " > ") }

type mockConn struct{ m *mock }

func (c mockConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not expected") }
func (c mockConn) Close() error                        { c.m.call("close"); return nil }
func (c mockConn) Begin() (driver.Tx, error)           { return c, nil }
func (c mockConn) Commit() error                       { c.m.call("commit"); return c.m.commit }
func (c mockConn) Rollback() error                     { c.m.call("rollback"); return nil }

func (c mockConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	c.m.call("begin")
	return c, nil
}

func (c mockConn) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	c.m.call("exec")
	return mockResult{c.m.rows}, nil
}

type mockResult struct{ rows int64 }

func (r mockResult) LastInsertId() (int64, error) { return 0, nil }
func (r mockResult) RowsAffected() (int64, error) { return r.rows, nil }

// A mock knows nothing of what the rows mean, nor when heartbeats are due.
func TestMock(t *testing.T) {
	t.Parallel()
	for _, f := range forms {
		for _, rows := range []int64{0, 1, 2} {
			synctest.Test(t, func(t *testing.T) {
				m := &mock{rows: rows}
				db := sql.OpenDB(m)
				defer db.Close()
				err := f.call(advisorylock.Locker{}, t.Context(), db, key, func(context.Context) error {
					time.Sleep(time.Minute)
					return nil
				})
				want := "begin > exec > commit"
				if f.try && rows == 0 {
					want = "begin > exec > rollback"
				}
				if errors.Is(err, advisorylock.ErrNotAcquired) != (f.try && rows == 0) || err != nil && rows != 0 || m.String() != want {
					t.Errorf("%s, %d rows: got %v, %s; want %s", f.op, rows, err, m, want)
				}
			})
		}
	}
}

// A mock that is closed without being told to expect it fails from then on.
func TestFailedCommitDoesNotCloseAMock(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, f := range forms {
		m := &mock{rows: 1, commit: boom}
		db := sql.OpenDB(m)
		if err := f.call(advisorylock.Locker{}, t.Context(), db, key, noFn); !errors.Is(err, boom) {
			t.Errorf("%s: got %v; want %v", f.op, err, boom)
		}
		if got, want := m.String(), "begin > exec > commit"; got != want || db.Stats().Idle != 1 {
			t.Errorf("%s: got %s, %d in the pool; want %s, and the connection in the pool", f.op, got, db.Stats().Idle, want)
		}
		db.Close()
	}
}

// Nobody has told a mock to expect a statement for the sake of connections.
func TestMockIsNotAskedForAConnection(t *testing.T) {
	t.Parallel()
	m := &mock{rows: 1}
	db := sql.OpenDB(m)
	defer db.Close()
	c := bridge.Call{Op: "op", DB: db, Key: 42, Work: db}
	if err := bridge.Hold(t.Context(), c, noFn); err != nil || m.String() != "begin > exec > commit" {
		t.Errorf("got %v, %s; want nothing but the lock", err, m)
	}
}
