// Package recdriver is a database/sql driver for tests that records every call
// database/sql makes of it, and can fail, delay, hang or panic in any of them.
//
// It runs alone, on a small fake of PostgreSQL ([New], [Server.Driver]), or
// around another driver ([WrapDriver]), whose behaviour it does not
// change. What it sees that a mock does not: a connection being opened, taken
// from the pool, given back and closed, and by which protocol a statement went.
//
//   - [Driver], [Call]: the recorder and what it records
//   - [FailOn], [After], [DelayOn], [HangOn], [BlockOn], [PanicOn]: hooks for
//     [Driver.OnCall]
//   - [Server]: advisory locks shared by the drivers of several processes or
//     pools, with the manners of several real drivers ([Mode])
//   - [SQLError]: an error with a SQLSTATE
//
// It is internal to this module and promises nothing to others.
package recdriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"sync"
	"time"
)

// Kind says what was asked of the driver.
type Kind string

// The kinds of call. A fresh connection shows Connect, one that comes from the
// pool shows Take. One that database/sql already knows to be bad is closed
// without a Release.
const (
	Connect   Kind = "connect"    // a physical connection was opened
	Take      Kind = "take"       // ResetSession: an idle connection was taken from the pool
	Ping      Kind = "ping"       // Ping
	Begin     Kind = "begin"      // BeginTx
	Exec      Kind = "exec"       // ExecContext without arguments: the simple protocol
	ExecArgs  Kind = "exec args"  // ExecContext with arguments: the extended protocol
	Query     Kind = "query"      // QueryContext without arguments
	QueryArgs Kind = "query args" // QueryContext with arguments
	Prepare   Kind = "prepare"    // a statement was prepared
	Commit    Kind = "commit"     // COMMIT
	Rollback  Kind = "rollback"   // ROLLBACK
	Release   Kind = "release"    // IsValid: the connection went back to the pool
	Close     Kind = "close"      // the physical connection was closed
)

// Call is one thing that database/sql asked of the driver.
type Call struct {
	Kind      Kind
	Conn      int    // 1, 2, 3… in the order in which they were asked for
	Query     string // of statements
	Args      []driver.NamedValue
	Isolation sql.IsolationLevel // of Begin
	ReadOnly  bool               // of Begin
	Err       error              // a Release that finds the connection bad has [driver.ErrBadConn]
	Start     time.Time
	End       time.Time // zero while the call has not come back
}

func (c *Call) matches(kind Kind, substr string) bool {
	return (kind == "" || c.Kind == kind) && strings.Contains(c.Query, substr)
}

// errPanicked is the Err of a call that panicked or ended its goroutine.
var errPanicked = errors.New("recdriver: the call panicked")

// A Driver records what database/sql asks of the backend behind it. It is a
// [driver.Connector], for [sql.OpenDB], and safe for concurrent use.
type Driver struct {
	backend driver.Connector
	server  *Server // nil when wrapping

	mu       sync.Mutex
	calls    []*Call
	watches  []*watch
	hooks    []func(context.Context, *Call) error
	conns    map[int]driver.Conn // open now; the backend's
	lastConn int
	forgets  bool
	onExec   func(Call) (int64, error)
	onQuery  func(Call) ([]string, [][]driver.Value, error)
}

type watch struct {
	kind   Kind
	substr string
	n      int
	done   chan struct{}
}

// New returns a driver with a fake backend and a lock server of its own, in
// mode [Plain].
func New() *Driver { return NewServer().Driver(Plain) }

// WrapDriver returns a driver that records and forwards all calls to d, which is opened
// with a data source name, as by [sql.Open].
func WrapDriver(d driver.Driver, dsn string) *Driver {
	var backend driver.Connector = dsnConnector{d, dsn}
	if dc, ok := d.(driver.DriverContext); ok {
		if c, err := dc.OpenConnector(dsn); err == nil {
			backend = c
		}
	}
	return wrap(backend)
}

func wrap(c driver.Connector) *Driver { return &Driver{backend: c, conns: make(map[int]driver.Conn)} }

type dsnConnector struct {
	driver driver.Driver
	dsn    string
}

func (c dsnConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c dsnConnector) Driver() driver.Driver                        { return c.driver }

// OpenDB returns a new pool of connections made by d.
func (d *Driver) OpenDB() *sql.DB { return sql.OpenDB(d) }

// Server returns the lock server behind d, nil if d wraps another driver.
func (d *Driver) Server() *Server { return d.server }

// Calls returns a copy of the calls since the last Reset, in the order in
// which they began.
func (d *Driver) Calls() []Call {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := make([]Call, len(d.calls))
	for i, c := range d.calls {
		calls[i] = *c
	}
	return calls
}

// Reset forgets the calls so far. Hooks, answers and connections stay.
func (d *Driver) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = nil
}

// String joins the kinds of the calls since the last Reset, as in "connect > begin >
// exec! > rollback > release". A "!" follows a call that failed, "..." one that has not
// come back.
func (d *Driver) String() string {
	var b strings.Builder
	for i, c := range d.Calls() {
		if i > 0 {
			b.WriteString(" > ")
		}
		b.WriteString(string(c.Kind))
		switch {
		case c.End.IsZero():
			b.WriteString("...")
		case c.Err != nil:
			b.WriteString("!")
		}
	}
	return b.String()
}

// Open returns how many physical connections are open now.
func (d *Driver) Open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// Started returns a channel that is closed as soon as n calls since the last
// Reset that match have begun, before their hooks run. An empty kind matches
// every call, and so does an empty substr of the statement.
func (d *Driver) Started(kind Kind, substr string, n int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := &watch{kind, substr, n, make(chan struct{})}
	if d.reached(w) {
		close(w.done)
	} else {
		d.watches = append(d.watches, w)
	}
	return w.done
}

// reached reports whether w has all its calls. d.mu must be held.
func (d *Driver) reached(w *watch) bool {
	n := 0
	for _, c := range d.calls {
		if c.matches(w.kind, w.substr) {
			n++
		}
	}
	return n >= w.n
}

// OnCall adds a hook, which runs before a call reaches the backend, in the
// goroutine of the call. It may return an error to fail the call, block to hang
// it, or panic. Hooks run in the order in which they were added until one
// fails; nil removes them all. c is a copy. ctx is the Background where
// database/sql gives none: Commit, Rollback, Release, StmtClose and Close.
//
// What a failed call leaves behind: Close closes, and a transaction is rolled
// back by a failed Commit or Rollback, as by PostgreSQL when a COMMIT fails. A
// failed Release makes the pool close the connection. database/sql ignores
// errors of Take other than [driver.ErrBadConn].
func (d *Driver) OnCall(hook func(ctx context.Context, c *Call) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hook == nil {
		d.hooks = nil
		return
	}
	d.hooks = append(d.hooks[:len(d.hooks):len(d.hooks)], hook)
}

// OnExec sets the answer of the fake backend to statements that are executed,
// except those whose last one takes an advisory lock. nil restores the default,
// one row and no error. An error with a SQLSTATE aborts the transaction.
func (d *Driver) OnExec(answer func(c Call) (rowsAffected int64, err error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onExec = answer
}

// OnQuery sets the answer of the fake backend to queries, except those whose
// last one takes an advisory lock. nil restores the default, no rows. A row whose
// first value is an error cuts the answer short with that.
func (d *Driver) OnQuery(answer func(c Call) (columns []string, rows [][]driver.Value, err error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onQuery = answer
}

// Kill ends connection number conn of the fake backend as
// pg_terminate_backend does; see [Server.Kill].
func (d *Driver) Kill(conn int) {
	d.mu.Lock()
	b := backendOf(d.conns[conn])
	d.mu.Unlock()
	if b != nil {
		b.session.terminate(errTerminated)
	}
}

// Connect opens a connection. It is part of [driver.Connector].
func (d *Driver) Connect(ctx context.Context) (driver.Conn, error) {
	d.mu.Lock()
	d.lastConn++
	n := d.lastConn
	d.mu.Unlock()

	var inner sqlConn
	err := d.do(ctx, Call{Kind: Connect, Conn: n}, func() error {
		opened, err := d.backend.Connect(ctx)
		if err == nil {
			inner = opened.(sqlConn) //nolint:forcetypeassert // or it cannot be recorded
		}
		return err
	})
	if err != nil {
		if inner != nil {
			_ = inner.Close()
		}
		return nil, err
	}
	if b := backendOf(inner); b != nil {
		b.number = n
	}
	d.mu.Lock()
	d.conns[n] = inner
	d.mu.Unlock()
	return newConn(d, n, inner), nil
}

// Forget makes d keep no record of its calls from now on: a long run would have
// millions.
func (d *Driver) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls, d.forgets = nil, true
}

// Driver returns the driver behind d. It is part of [driver.Connector].
func (d *Driver) Driver() driver.Driver { return d.backend.Driver() }

// KillAll ends all connections of d to the fake backend, as a restart of the
// server does.
func (d *Driver) KillAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		if b := backendOf(c); b != nil {
			b.session.terminate(errTerminated)
		}
	}
}

// Holds reports whether one of d's connections to the fake backend has the lock.
func (d *Driver) Holds(key int64) bool {
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	if l := d.server.locks[key]; l != nil {
		for h := range l.holders {
			if h.driver == d {
				return true
			}
		}
	}
	return false
}

// do records c, runs the hooks and then call.
func (d *Driver) do(ctx context.Context, c Call, call func() error) (err error) {
	record, hooks := d.start(c)
	err = errPanicked
	defer func() { d.end(record, err) }()

	var after *afterError
	for _, hook := range hooks {
		seen := c
		if e := hook(ctx, &seen); e != nil && !errors.As(e, &after) {
			err = e
			return err
		} else if after != nil {
			break
		}
	}
	e := call()
	if after != nil && after.wait != nil {
		after.wait()
	}
	if e != nil || after == nil {
		err = e
		return err
	}
	err = after.err
	return err
}

func (d *Driver) start(c Call) (*Call, []func(context.Context, *Call) error) {
	c.Start = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forgets {
		return &c, d.hooks
	}
	d.calls = append(d.calls, &c)
	var waiting []*watch
	for _, w := range d.watches {
		if d.reached(w) {
			close(w.done)
		} else {
			waiting = append(waiting, w)
		}
	}
	d.watches = waiting
	return &c, d.hooks
}

func (d *Driver) end(c *Call, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.End, c.Err = time.Now(), err
}
