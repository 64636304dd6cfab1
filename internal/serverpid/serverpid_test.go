package serverpid_test

import (
	"testing"

	"github.com/bootlock/bootlock/internal/serverpid"
)

// As in pgx: stdlib.Conn, pgx.Conn, pgconn.PgConn.
type (
	stdlibConn struct{ conn *pgxConn }
	pgxConn    struct{ pgConn *pgConn }
	pgConn     struct{ pid uint32 }
)

func (c *stdlibConn) Conn() *pgxConn { return c.conn }
func (c *pgxConn) PgConn() *pgConn   { return c.pgConn }
func (c *pgConn) PID() uint32        { return c.pid }
func pgx(pid uint32) *stdlibConn     { return &stdlibConn{&pgxConn{&pgConn{pid}}} }

// As in lib/pq, before 1.12 and since.
type (
	oldPQConn struct{ processID, secretKey int }
	pqConn    struct {
		secretKey []byte
		pid       int
	}
)

// Drivers that use the same names for something else.
type (
	withArgument struct{}
	withError    struct{}
	textPID      struct{}
	textField    struct {
		processID string
		pid       int
	}
	embedsNil struct{ *oldPQConn }
)

func (withArgument) Conn(...string) *pgxConn { return pgx(7).conn }
func (withError) Conn() (*pgxConn, error)    { return pgx(7).conn, nil }
func (textPID) Conn() textPID                { return textPID{} }
func (textPID) PgConn() textPID              { return textPID{} }
func (textPID) PID() string                  { return "7" }

func TestOf(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		conn any
		want int64
	}{
		"pgx":                     {pgx(4294967295), 4294967295},
		"pgx, closed":             {&stdlibConn{}, 0},
		"lib/pq before 1.12":      {&oldPQConn{processID: 7, secretKey: 8}, 7},
		"lib/pq":                  {&pqConn{pid: 7}, 7},
		"a field by value":        {oldPQConn{processID: 7}, 7},
		"nothing":                 {nil, 0},
		"a nil pointer":           {(*oldPQConn)(nil), 0},
		"no struct":               {7, 0},
		"a struct without either": {struct{ number int }{7}, 0},
		"Conn with an argument":   {withArgument{}, 0},
		"Conn with an error":      {withError{}, 0},
		"a PID that is a text":    {textPID{}, 0},
		"a field that is a text":  {&textField{"8", 7}, 7},
		"embedded, but not there": {embedsNil{}, 0},
		"wrapped in another":      {struct{ inner any }{pgx(7)}, 0},
	} {
		if got := serverpid.Of(tt.conn); got != tt.want {
			t.Errorf("%s: got %d; want %d", name, got, tt.want)
		}
	}
}
