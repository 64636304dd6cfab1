package recdriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
)

// conn records what is asked of one connection. Where inner lacks an optional
// interface, it does what database/sql itself would have done.
type conn struct {
	d     *Driver
	n     int
	inner driver.Conn

	// processID is the number of the fake server process, under the name that lib/pq
	// has for it; zero with any other backend.
	processID int

	// discard makes the pool close the connection at its next release.
	discard bool
}

// newConn hides ExecContext and QueryContext where inner has neither form of
// them: to answer ErrSkip instead would be too late, because by then
// database/sql has checked the arguments without the statement's help.
func newConn(d *Driver, n int, inner driver.Conn) driver.Conn {
	c := &conn{d: d, n: n, inner: inner}
	if backendOf(inner) != nil {
		c.processID = n
	}
	_, exec := inner.(driver.ExecerContext)
	if !exec {
		_, exec = inner.(driver.Execer) //nolint:staticcheck // older drivers have nothing else
	}
	_, query := inner.(driver.QueryerContext)
	if !query {
		_, query = inner.(driver.Queryer) //nolint:staticcheck // as above
	}
	switch {
	case exec && query:
		return struct {
			*conn
			execer
			queryer
		}{c, execer{c}, queryer{c}}
	case exec:
		return struct {
			*conn
			execer
		}{c, execer{c}}
	case query:
		return struct {
			*conn
			queryer
		}{c, queryer{c}}
	}
	return c
}

func (c *conn) do(ctx context.Context, call Call, f func() error) error {
	call.Conn = c.n
	err := c.d.do(ctx, call, f)
	if b := backendOf(c.inner); b != nil && err != nil {
		b.failed(err) // of a hook, perhaps
	}
	return err
}

// Unwrap returns the connection of the driver behind, for [sql.Conn.Raw].
func (c *conn) Unwrap() driver.Conn { return c.inner }

func (c *conn) Close() error {
	defer func() {
		c.d.mu.Lock()
		delete(c.d.conns, c.n)
		c.d.mu.Unlock()
	}()
	closed := false
	closeInner := func() error {
		closed = true
		return c.inner.Close()
	}
	defer func() {
		if !closed {
			_ = closeInner() // a failed Close leaves no connection behind
		}
	}()
	return c.do(context.Background(), Call{Kind: Close}, closeInner)
}

func (c *conn) Ping(ctx context.Context) error {
	return c.do(ctx, Call{Kind: Ping}, func() error {
		if p, ok := c.inner.(driver.Pinger); ok {
			return p.Ping(ctx)
		}
		return nil
	})
}

func (c *conn) ResetSession(ctx context.Context) error {
	return c.do(ctx, Call{Kind: Take}, func() error {
		if r, ok := c.inner.(driver.SessionResetter); ok {
			return r.ResetSession(ctx)
		}
		return nil
	})
}

func (c *conn) IsValid() bool {
	err := c.do(context.Background(), Call{Kind: Release}, func() error {
		if v, ok := c.inner.(driver.Validator); c.discard || ok && !v.IsValid() {
			return driver.ErrBadConn
		}
		return nil
	})
	return err == nil
}

// keepsOnRollback reports whether database/sql would keep the bare connection
// when the end of a ctx rolled a transaction back.
func (c *conn) keepsOnRollback() bool {
	_, resets := c.inner.(driver.SessionResetter)
	_, validates := c.inner.(driver.Validator)
	return resets && validates
}

func (c *conn) CheckNamedValue(nv *driver.NamedValue) error {
	if ch, ok := c.inner.(driver.NamedValueChecker); ok {
		return ch.CheckNamedValue(nv)
	}
	return driver.ErrSkip
}

func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	call := Call{Kind: Begin, Isolation: sql.IsolationLevel(opts.Isolation), ReadOnly: opts.ReadOnly}
	var inner driver.Tx
	err := c.do(ctx, call, func() (err error) {
		inner, err = begin(ctx, c.inner, opts)
		if err != nil {
			inner = nil
		}
		return err
	})
	if err != nil {
		if inner != nil {
			_ = inner.Rollback()
		}
		return nil, err
	}
	return &tx{c: c, inner: inner, ctx: ctx}, nil
}

func begin(ctx context.Context, inner driver.Conn, opts driver.TxOptions) (driver.Tx, error) {
	if b, ok := inner.(driver.ConnBeginTx); ok {
		return b.BeginTx(ctx, opts)
	}
	if sql.IsolationLevel(opts.Isolation) != sql.LevelDefault {
		return nil, errors.New("sql: driver does not support non-default isolation level")
	}
	if opts.ReadOnly {
		return nil, errors.New("sql: driver does not support read-only transactions")
	}
	t, err := inner.Begin() //nolint:staticcheck // all that inner has
	if err == nil && ctx.Err() != nil {
		_ = t.Rollback()
		return nil, ctx.Err()
	}
	return t, err
}

func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	var inner driver.Stmt
	err := c.do(ctx, Call{Kind: Prepare, Query: query}, func() (err error) {
		inner, err = prepare(ctx, c.inner, query)
		if err != nil {
			inner = nil
		}
		return err
	})
	if err != nil {
		if inner != nil {
			_ = inner.Close()
		}
		return nil, err
	}
	s := &stmt{c: c, inner: inner, query: query}
	if _, ok := inner.(driver.ColumnConverter); ok { //nolint:staticcheck // must be forwarded
		return convertingStmt{s}, nil
	}
	return s, nil
}

type convertingStmt struct{ *stmt }

func (s convertingStmt) ColumnConverter(i int) driver.ValueConverter {
	return s.inner.(driver.ColumnConverter).ColumnConverter(i) //nolint:staticcheck // must be forwarded
}

func prepare(ctx context.Context, inner driver.Conn, query string) (driver.Stmt, error) {
	if p, ok := inner.(driver.ConnPrepareContext); ok {
		return p.PrepareContext(ctx, query)
	}
	s, err := inner.Prepare(query)
	if err == nil && ctx.Err() != nil {
		_ = s.Close()
		return nil, ctx.Err()
	}
	return s, err
}

type execer struct{ c *conn }

func (e execer) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	call := Call{Kind: Exec, Query: query, Args: args}
	if len(args) > 0 {
		call.Kind = ExecArgs
	}
	var res driver.Result
	err := e.c.do(ctx, call, func() (err error) {
		if x, ok := e.c.inner.(driver.ExecerContext); ok {
			res, err = x.ExecContext(ctx, query, args)
			return err
		}
		values, err := legacyArgs(ctx, args)
		if err == nil {
			res, err = e.c.inner.(driver.Execer).Exec(query, values) //nolint:staticcheck // all that inner has
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

type queryer struct{ c *conn }

func (q queryer) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	call := Call{Kind: Query, Query: query, Args: args}
	if len(args) > 0 {
		call.Kind = QueryArgs
	}
	return q.c.query(ctx, call, func() (driver.Rows, error) {
		if x, ok := q.c.inner.(driver.QueryerContext); ok {
			return x.QueryContext(ctx, query, args)
		}
		values, err := legacyArgs(ctx, args)
		if err != nil {
			return nil, err
		}
		return q.c.inner.(driver.Queryer).Query(query, values) //nolint:staticcheck // all that inner has
	})
}

func (c *conn) query(ctx context.Context, call Call, f func() (driver.Rows, error)) (driver.Rows, error) {
	var rows driver.Rows
	err := c.do(ctx, call, func() (err error) {
		rows, err = f()
		if err != nil {
			rows = nil
		}
		return err
	})
	if err != nil {
		if rows != nil {
			_ = rows.Close()
		}
		return nil, err
	}
	return rows, nil
}

// legacyArgs is what database/sql does before it calls a method without ctx.
func legacyArgs(ctx context.Context, named []driver.NamedValue) ([]driver.Value, error) {
	values := make([]driver.Value, len(named))
	for i, nv := range named {
		if nv.Name != "" {
			return nil, errors.New("sql: driver does not support the use of Named Parameters")
		}
		values[i] = nv.Value
	}
	return values, ctx.Err()
}

type tx struct {
	c     *conn
	inner driver.Tx
	ctx   context.Context // of BeginTx
}

func (t *tx) Commit() error { return t.finish(Commit, t.inner.Commit) }

func (t *tx) Rollback() error {
	// Before it rolls back, because the connection is released right after.
	t.c.discard = t.ctx.Err() != nil && !t.c.keepsOnRollback()
	return t.finish(Rollback, t.inner.Rollback)
}

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

type stmt struct {
	c     *conn
	inner driver.Stmt
	query string
}

func (s *stmt) Close() error {
	closed := false
	closeInner := func() error {
		closed = true
		return s.inner.Close()
	}
	defer func() {
		if !closed {
			_ = closeInner()
		}
	}()
	return s.c.do(context.Background(), Call{Kind: StmtClose, Query: s.query}, closeInner)
}

func (s *stmt) NumInput() int { return s.inner.NumInput() }

func (s *stmt) CheckNamedValue(nv *driver.NamedValue) error {
	if ch, ok := s.inner.(driver.NamedValueChecker); ok {
		return ch.CheckNamedValue(nv)
	}
	return s.c.CheckNamedValue(nv)
}

func (s *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return s.ExecContext(context.Background(), namedArgs(args))
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	var res driver.Result
	err := s.c.do(ctx, Call{Kind: StmtExec, Query: s.query, Args: args}, func() (err error) {
		if x, ok := s.inner.(driver.StmtExecContext); ok {
			res, err = x.ExecContext(ctx, args)
			return err
		}
		values, err := legacyArgs(ctx, args)
		if err == nil {
			res, err = s.inner.Exec(values) //nolint:staticcheck // all that inner has
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (s *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return s.QueryContext(context.Background(), namedArgs(args))
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.query(ctx, Call{Kind: StmtQuery, Query: s.query, Args: args}, func() (driver.Rows, error) {
		if x, ok := s.inner.(driver.StmtQueryContext); ok {
			return x.QueryContext(ctx, args)
		}
		values, err := legacyArgs(ctx, args)
		if err != nil {
			return nil, err
		}
		return s.inner.Query(values) //nolint:staticcheck // all that inner has
	})
}

func namedArgs(values []driver.Value) []driver.NamedValue {
	named := make([]driver.NamedValue, len(values))
	for i, v := range values {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return named
}
