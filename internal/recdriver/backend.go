package recdriver

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/bootlock/bootlock/internal/sqlstate"
)

// backend is the fake of PostgreSQL and its driver; the Driver in front of it
// does all the recording.
type backend struct {
	d      *Driver
	server *Server
	mode   Mode
}

func (b *backend) Connect(ctx context.Context) (driver.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &backendConn{d: b.d, mode: b.mode, session: &session{server: b.server, driver: b.d}}
	if b.mode == PGX {
		return c, nil
	}
	return validatingConn{c}, nil
}

func (b *backend) Driver() driver.Driver { return nil }

// backendConn has no IsValid, as pgx; validatingConn has.
type backendConn struct {
	d       *Driver
	mode    Mode
	number  int
	session *session
	inTx    bool
	aborted bool     // the transaction can only be rolled back
	bad     bool     // the client knows that the session is over
	queued  int64    // the key whose queue the next DO block of package advisorylock stands in
	inVain  bool     // and did, until its burst was over
	work    []string // the statements of the transaction that are not about locks
}

type validatingConn struct{ *backendConn }

func (c validatingConn) IsValid() bool { return !c.bad }

func backendOf(c driver.Conn) *backendConn {
	switch c := c.(type) {
	case *backendConn:
		return c
	case validatingConn:
		return c.backendConn
	}
	return nil
}

// start begins a call, if there is still a server to talk to.
func (c *backendConn) start() error {
	if c.bad {
		return driver.ErrBadConn
	}
	if err := c.session.start(); err != nil {
		return c.lost(err)
	}
	return nil
}

func (c *backendConn) stop() { c.session.stop(c.inTx) }

func (c *backendConn) lost(err error) error {
	c.bad, c.inTx, c.aborted = true, false, false
	if c.mode == LibPQ {
		return driver.ErrBadConn
	}
	return err
}

// cancelled is what a statement says whose ctx ended.
func (c *backendConn) cancelled(ctx context.Context) error {
	if c.mode == Plain {
		return errCancelled
	}
	c.bad, c.inTx, c.aborted = true, false, false
	c.session.terminate(driver.ErrBadConn)
	switch {
	case c.mode == LibPQ:
		return errCancelled
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("timeout: %w", ctx.Err())
	}
	return ctx.Err()
}

// failed learns what a call came to, be it by a hook.
func (c *backendConn) failed(err error) {
	if c.inTx && sqlstate.Of(err) != "" {
		c.aborted = true
	}
}

func (c *backendConn) endTx() {
	c.inTx, c.aborted, c.work = false, false, nil
	c.session.stop(false)
}

// do has the lock server see to a text. It returns how many rows the locks in the last
// statement make, or [other].
func (c *backendConn) do(ctx context.Context, text string) (rows int, err error) {
	if err := c.start(); err != nil {
		return other, err
	}
	defer c.stop()
	if ctx.Err() != nil {
		if c.mode == PGX {
			return other, driver.ErrBadConn // nothing was sent: database/sql may try again
		}
		return other, c.cancelled(ctx)
	}
	rows, err = c.run(ctx, text)
	switch {
	case errors.Is(err, errCancelled):
		err = c.cancelled(ctx)
	case err != nil && c.session.ended():
		err = c.lost(err)
	}
	return rows, err
}

func (c *backendConn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	rows, err := c.do(ctx, text)
	if err != nil || rows != other {
		return driver.RowsAffected(rows), err
	}
	if c.inTx {
		c.work = append(c.work, text)
	}
	c.d.mu.Lock()
	onExec := c.d.onExec
	c.d.mu.Unlock()
	if onExec == nil {
		return driver.RowsAffected(1), nil
	}
	n, err := onExec(Call{Kind: Exec, Conn: c.number, Query: text, Args: args})
	return driver.RowsAffected(n), err
}

func (c *backendConn) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	if _, err := c.do(ctx, text); err != nil {
		return nil, err
	}
	c.d.mu.Lock()
	onQuery := c.d.onQuery
	c.d.mu.Unlock()
	if onQuery == nil {
		return &rows{}, nil
	}
	columns, data, err := onQuery(Call{Kind: Query, Conn: c.number, Query: text, Args: args})
	return &rows{columns, data}, err
}

func (c *backendConn) Ping(ctx context.Context) error {
	if err := c.start(); err != nil {
		return driver.ErrBadConn
	}
	defer c.stop()
	return ctx.Err()
}

func (c *backendConn) ResetSession(context.Context) error {
	if c.bad || c.inTx {
		return driver.ErrBadConn
	}
	return nil
}

func (c *backendConn) Close() error {
	c.bad = true
	c.session.terminate(driver.ErrBadConn)
	return nil
}

func (c *backendConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *backendConn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	if err := c.start(); err != nil {
		return nil, err
	}
	defer c.stop()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.inTx = true
	return backendTx{c}, nil
}

type backendTx struct{ c *backendConn }

func (t backendTx) Commit() error {
	if err := t.start(); err != nil {
		return err
	}
	aborted := t.c.aborted
	if !aborted && !t.c.session.commit(t.c.work) {
		return t.c.start() // it says how the session ended
	}
	t.c.endTx()
	switch {
	case aborted && t.c.mode == LibPQ:
		return errors.New("pq: could not complete operation in a failed transaction")
	case aborted:
		return errors.New("commit unexpectedly resulted in rollback")
	}
	return nil
}

func (t backendTx) Rollback() error {
	if err := t.start(); err != nil {
		return err
	}
	t.c.endTx()
	return nil
}

func (t backendTx) start() error {
	if t.c.bad && t.c.mode == PGX {
		return errors.New("conn closed")
	}
	return t.c.start()
}

func (c *backendConn) Prepare(string) (driver.Stmt, error) {
	return nil, errors.New("recdriver: the fake server prepares nothing")
}

type rows struct {
	columns []string
	data    [][]driver.Value
}

func (r *rows) Columns() []string { return r.columns }
func (r *rows) Close() error      { return nil }

func (r *rows) Next(dest []driver.Value) error {
	if len(r.data) == 0 {
		return io.EOF
	}
	row := r.data[0]
	r.data = r.data[1:]
	if err, ok := row[0].(error); ok {
		return err
	}
	copy(dest, row)
	return nil
}
