package recdriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// sqlConn is what a connection must have to be recorded, and that of every driver under
// test has.
type sqlConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
}

// conn records what is asked of one connection. Prepared statements are the driver's
// own: only that they were prepared is recorded.
type conn struct {
	sqlConn
	d *Driver
	n int

	// processID is the number of the fake server process, under the name that lib/pq
	// has for it; zero with any other backend.
	processID int
}

func newConn(d *Driver, n int, inner sqlConn) *conn {
	c := &conn{sqlConn: inner, d: d, n: n}
	if backendOf(inner) != nil {
		c.processID = n
	}
	return c
}

func (c *conn) do(ctx context.Context, call Call, f func() error) error {
	call.Conn = c.n
	err := c.d.do(ctx, call, f)
	if b := backendOf(c.sqlConn); b != nil && err != nil {
		b.failed(err) // of a hook, perhaps
	}
	return err
}

func (c *conn) Close() error {
	reached := false
	err := c.do(context.Background(), Call{Kind: Close}, func() error {
		reached = true
		return c.sqlConn.Close()
	})
	if !reached {
		_ = c.sqlConn.Close() // a failed Close leaves no connection behind
	}
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	delete(c.d.conns, c.n)
	return err
}

func (c *conn) Ping(ctx context.Context) error {
	return c.do(ctx, Call{Kind: Ping}, func() error {
		if p, ok := c.sqlConn.(driver.Pinger); ok {
			return p.Ping(ctx)
		}
		return nil
	})
}

func (c *conn) ResetSession(ctx context.Context) error {
	return c.do(ctx, Call{Kind: Take}, func() error {
		if r, ok := c.sqlConn.(driver.SessionResetter); ok {
			return r.ResetSession(ctx)
		}
		return nil
	})
}

func (c *conn) IsValid() bool {
	err := c.do(context.Background(), Call{Kind: Release}, func() error {
		if v, ok := c.sqlConn.(driver.Validator); ok && !v.IsValid() {
			return driver.ErrBadConn
		}
		return nil
	})
	return err == nil
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	call := Call{Kind: Begin, Isolation: sql.IsolationLevel(opts.Isolation), ReadOnly: opts.ReadOnly}
	var inner driver.Tx
	err := c.do(ctx, call, func() (err error) {
		inner, err = c.sqlConn.BeginTx(ctx, opts)
		return err
	})
	if err == nil {
		return &tx{c, inner}, nil
	}
	if inner != nil {
		_ = inner.Rollback() // the caller never gets to see it
	}
	return nil, err
}

func (c *conn) Prepare(query string) (st driver.Stmt, err error) {
	err = c.do(context.Background(), Call{Kind: Prepare, Query: query}, func() (err error) {
		st, err = c.sqlConn.Prepare(query)
		return err
	})
	return st, err
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	err = c.do(ctx, statement(Exec, ExecArgs, query, args), func() (err error) {
		res, err = c.sqlConn.ExecContext(ctx, query, args)
		return err
	})
	return res, err
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, err error) {
	err = c.do(ctx, statement(Query, QueryArgs, query, args), func() (err error) {
		rows, err = c.sqlConn.QueryContext(ctx, query, args)
		return err
	})
	return rows, err
}

func statement(kind, withArgs Kind, query string, args []driver.NamedValue) Call {
	if len(args) > 0 {
		kind = withArgs
	}
	return Call{Kind: kind, Query: query, Args: args}
}

type tx struct {
	c     *conn
	inner driver.Tx
}

func (t *tx) Commit() error   { return t.finish(Commit, t.inner.Commit) }
func (t *tx) Rollback() error { return t.finish(Rollback, t.inner.Rollback) }

func (t *tx) finish(kind Kind, f func() error) error {
	reached := false
	defer func() {
		// A hook failed it. PostgreSQL, too, has no transaction left then, and
		// the pool must not get a connection that holds a lock.
		if !reached {
			_ = t.inner.Rollback()
		}
	}()
	return t.c.do(context.Background(), Call{Kind: kind}, func() error {
		reached = true
		return f()
	})
}
