// Package fence keeps the transactions of a lease that is lost from being
// committed once the next one has begun. docs/fence.md explains why it works.
//
// A lease has a number, drawn at random for each grant, which its session locks, and a
// gate, whose key follows from that of the lock. A transaction that must not be late
// shares the gate until it ends, and then looks whether the number is still taken. The
// next holder begins when the server's list of locks shows no old number and nobody in
// the gate.
//
//	old holder    ──lock, number────────────┤ session ends
//	its tx              ──share gate, number taken?───── yes ──work── commit┤
//	next holder                             ├─lock, own number, look──── look ─begins
//	late tx of old                              gate, number taken? no: refused
package fence

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/internal/mocked"
)

// A Lease is what its transactions need to know of it.
type Lease struct {
	key    int64 // of the lock
	draw   func() uint32
	number int64
	ttl    time.Duration
	ended  *atomic.Bool
}

// New returns the lease on a lock before its first grant.
func New(key int64, ttl time.Duration, draw func() uint32) Lease {
	return Lease{key: key, draw: draw, ttl: ttl}.Redraw()
}

// Redraw returns the lease as of its next grant.
func (l Lease) Redraw() Lease {
	l.number, l.ended = int64(uint64(l.Family())<<32|uint64(l.draw())), new(atomic.Bool) //nolint:gosec // the bits, whatever their sign
	return l
}

// Draw returns how leases that are kept through db draw their numbers: at
// random, unless it is a mock.
func Draw(db *sql.DB) func() uint32 {
	if mocked.Is(db) {
		return func() uint32 { return mocked.Number }
	}
	return rand.Uint32
}

// Family is the high half of all numbers for this lock, by which [Lease.PassSQL]
// finds them: the first 4 bytes of SHA-256("bootlock/number:" + key), the key in
// decimal.
func (l Lease) Family() uint32 {
	sum := sha256.Sum256(fmt.Appendf([]byte("bootlock/number:"), "%d", l.key))
	return binary.BigEndian.Uint32(sum[:4])
}

// Gate is the key of the gate: the first 8 bytes, big-endian, of
// SHA-256("bootlock/fence:" + key), the key in decimal.
func (l Lease) Gate() int64 {
	sum := sha256.Sum256(fmt.Appendf([]byte("bootlock/fence:"), "%d", l.key))
	return int64(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // the bits, whatever their sign
}

// PassSQL is an expression for the transaction that has the lock: it takes the
// number of the lease, and is true if nothing is left of an earlier one.
//
// The list of locks is asked of the function that the view pg_locks consists of,
// which is the cheaper. It has the locks of all databases, so they are grouped, and
// only the group that has the number of this very session counts. The quick form
// does not group them, which takes a third of the time, and is false if a lease of
// another database is in the list. A number that somebody else has in shared mode is
// that of a transaction that was late. A prepared transaction has no pid.
func (l Lease) PassSQL(quick bool) string {
	const look = `FROM pg_catalog.pg_lock_status() WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND ` +
		`(classid OPERATOR(pg_catalog.=) '{family}'::pg_catalog.oid AND mode OPERATOR(pg_catalog.=) 'ExclusiveLock' ` +
		`OR classid OPERATOR(pg_catalog.=) '{gate high}'::pg_catalog.oid AND objid OPERATOR(pg_catalog.=) '{gate low}'::pg_catalog.oid)`
	const take = `pg_catalog.pg_try_advisory_xact_lock({number}) AND `
	if quick {
		return l.fill(take + `(SELECT pg_catalog.count(*) ` + look + `) OPERATOR(pg_catalog.=) 1`)
	}
	return l.fill(take + `NOT EXISTS (SELECT ` + look + ` GROUP BY database HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 ` +
		`AND pg_catalog.bool_or(COALESCE(pid, 0) OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()))`)
}

// CheckSQL is what a transaction of the lease sends. It affects one row if the
// lease lives, and from then on no successor begins before the transaction ends.
//
// The gate comes before the number that counts: a successor that looked before the
// number was tried would otherwise be missed. Both are only tried for. The number
// is tried for in shared mode, so that two that are late do not take each other for
// the lease. It is tried for once more at the very beginning, so that transactions
// that are late, and try again and again, do not stand in the gate.
func (l Lease) CheckSQL() string {
	return "SELECT " + l.idleLimit() + "; SELECT 1 WHERE " + l.lives()
}

// RaiseSQL is CheckSQL for a transaction of another program: if the lease is lost it
// fails, with SQLSTATE 22P02 and the text as the value that is no number. It does not
// take plpgsql, which alone could raise an error of its own.
func (l Lease) RaiseSQL() string {
	return "SELECT " + l.idleLimit() + ", CASE WHEN " + l.lives() +
		" THEN 1 ELSE pg_catalog.concat('bootlock: the lock was lost, and somebody else may have it')::pg_catalog.int4 END"
}

func (l Lease) lives() string {
	return l.fill(`CASE WHEN pg_catalog.pg_try_advisory_xact_lock_shared({number}) THEN false ` +
		`WHEN pg_catalog.pg_try_advisory_xact_lock_shared({gate}) THEN NOT pg_catalog.pg_try_advisory_xact_lock_shared({number}) ELSE false END`)
}

// idleLimit gives the transaction the TTL of the lease as its limit for being
// idle, unless it has a shorter one: a holder that is frozen within it must not
// keep the next one out for longer than one that is frozen elsewhere.
func (l Lease) idleLimit() string {
	return l.fill(`pg_catalog.set_config('{name}', (SELECT CASE WHEN limited.at OPERATOR(pg_catalog.>) '0'::pg_catalog.interval ` +
		`AND limited.at OPERATOR(pg_catalog.<) '{ttl}'::pg_catalog.interval THEN pg_catalog.current_setting('{name}') ELSE '{ttl}' END ` +
		`FROM (SELECT pg_catalog.current_setting('{name}')::pg_catalog.interval AS at) limited), true)`)
}

// fill puts what the lease consists of into a statement.
func (l Lease) fill(statement string) string {
	gate := l.Gate()
	return strings.NewReplacer(
		"{number}", fmt.Sprint(l.number), "{family}", fmt.Sprint(l.Family()), "{gate}", fmt.Sprint(gate),
		"{gate high}", fmt.Sprint(uint32(uint64(gate)>>32)), "{gate low}", fmt.Sprint(uint32(uint64(gate))), //nolint:gosec // the two halves of the bits
		"{name}", "idle_in_transaction_session_timeout", "{ttl}", fmt.Sprintf("%dms", l.ttl.Milliseconds()),
	).Replace(statement)
}

type contextKey struct{}

// With returns a context that carries the lease.
func With(ctx context.Context, l Lease) context.Context {
	return context.WithValue(ctx, contextKey{}, l)
}

// End says that the lease is over: from now on From's callers find it lost.
func (l Lease) End() { l.ended.Store(true) }

// Ended reports whether End was called.
func (l Lease) Ended() bool { return l.ended.Load() }

// From returns the innermost lease that ctx carries.
func From(ctx context.Context) (l Lease, ok bool) {
	l, ok = ctx.Value(contextKey{}).(Lease)
	return l, ok
}

// ErrNoLease says that a context carries no lease.
var ErrNoLease = errors.New("the context is not one that Hold gave to its function, nor derived from one")

// SQL returns RaiseSQL for the lease that ctx carries.
func SQL(ctx context.Context) (string, error) {
	l, ok := From(ctx)
	if !ok {
		return "", ErrNoLease
	}
	return l.RaiseSQL(), nil
}

// Key is the key of the lock.
func (l Lease) Key() int64 { return l.key }
