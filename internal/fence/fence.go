// Package fence keeps the transactions of a lease that is lost from being
// committed once the next one has begun.
//
// Besides its lock, a lease takes a number, drawn at random for each grant, as
// an advisory lock in the same session: the number is taken for exactly as long
// as the lease lives. A transaction that must not be late shares a gate, whose
// key follows from that of the lock, until it ends, and then looks whether the
// number is still taken. The next holder, when it has the lock and before it
// begins, waits until the old number is free, and then passes through the gate
// alone: so it waits for every transaction that saw the number taken. Each later
// one finds it free, or the gate being passed, which says the same.
//
//	old holder    ──lock, number────────────┤ session ends
//	its tx              ──share gate, number taken?───── yes ──work── commit┤
//	next holder                             ├─lock, own number──gate────────┤─begins
//	late tx of old                              gate, number taken? no: refused
//
// That the next one has the lock does not say that the number is free. A server
// process frees its locks one after another, in an order that follows from their
// hashes, and may be interrupted in between: in 4 of 100 takeovers by
// pg_terminate_backend, the number was still taken when the lock and the gate
// had been.
//
// The gate for transactions of an exclusive lease is another than that of a
// shared one: sharers do not wait for the transactions of other sharers.
package fence

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/internal/mocked"
)

// A Lease is what its transactions need to know of it.
type Lease struct {
	key    int64 // of the lock
	shared bool
	draw   func() uint32
	number int64
	ttl    time.Duration
	ended  *atomic.Bool
}

// New returns the lease on a lock before its first grant.
func New(key int64, shared bool, ttl time.Duration, draw func() uint32) Lease {
	return Lease{key: key, shared: shared, draw: draw, ttl: ttl}.Redraw()
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

// Family is the high half of all numbers for this lock, by which [Lease.leaving]
// finds them: the first 4 bytes of SHA-256("bootlock/number:" + key), the key in
// decimal. The other half makes it a chance of one in four billion that a
// transaction takes the number of a later lease for its own.
func (l Lease) Family() uint32 {
	sum := sha256.Sum256(fmt.Appendf([]byte("bootlock/number:"), "%d", l.key))
	return binary.BigEndian.Uint32(sum[:4])
}

// gate is the key of the gate for transactions of shared or exclusive leases:
// the first 8 bytes, big-endian, of SHA-256("bootlock/fence:" + key) or
// ("bootlock/fence/shared:" + key), the key in decimal.
func (l Lease) gate(shared bool) int64 {
	prefix := "bootlock/fence:"
	if shared {
		prefix = "bootlock/fence/shared:"
	}
	sum := sha256.Sum256(fmt.Appendf([]byte(prefix), "%d", l.key))
	return int64(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // the bits, whatever their sign
}

// Gates are the keys of those that the lease has to pass before it begins.
func (l Lease) Gates() []int64 {
	if l.shared {
		return []int64{l.gate(false)}
	}
	return []int64{l.gate(false), l.gate(true)}
}

// DrainSQL takes the number of the lease and passes the gates, in a DO block with
// a variable x for what nobody needs. It waits at them until the statement has
// taken as long as the burst, and raises lock_not_available then.
func (l Lease) DrainSQL(burst time.Duration) string {
	wait := limit(burst) + "PERFORM " + callOn("pg_advisory_xact_lock_shared", "leaving.number") + " FROM (" + l.leaving() + ") leaving; "
	for _, gate := range l.Gates() {
		wait += limit(burst) + "x := " + call("pg_advisory_xact_lock", gate) + "; "
	}
	return l.pass() + "IF NOT passed THEN " + wait + "END IF; " + undo + "END; "
}

// TryDrainSQL is DrainSQL without the wait: it runs then if the gates were free.
func (l Lease) TryDrainSQL(then string) string {
	return l.pass() + undo + "IF passed THEN " + then + "END IF; END; "
}

// pass begins a block in which the number is taken and then, in a subtransaction that
// [undo] ends, the gates are passed if nobody is in them, as the variable passed says.
// The old number comes first: whoever saw it taken is in a gate by the time it is
// free. To plan the query for it takes longer than all the rest, in a new session,
// so that it is only asked if somebody else has a number at all.
func (l Lease) pass() string {
	gates := make([]string, 0, 2)
	for _, gate := range l.Gates() {
		gates = append(gates, call("pg_try_advisory_xact_lock", gate))
	}
	return "DECLARE passed pg_catalog.bool; BEGIN x := " + call("pg_advisory_xact_lock", l.number) + "; BEGIN " +
		"passed := NOT " + l.others() + "; IF NOT passed THEN passed := NOT EXISTS (" + l.leaving() + "); END IF; " +
		"passed := passed AND " + strings.Join(gates, " AND ") + "; "
}

// others says whether another session has a number for this lock. It is asked of
// the function that the view pg_locks consists of, which is the cheaper.
func (l Lease) others() string {
	return fmt.Sprintf("EXISTS (SELECT FROM pg_catalog.pg_lock_status() l WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' "+
		"AND l.classid OPERATOR(pg_catalog.=) %d::pg_catalog.oid AND l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid())", l.Family())
}

// undo gives the gates back, by rolling back the subtransaction that took them:
// transactions of this very lease must find them open.
const undo = "RAISE SQLSTATE 'BL000'; EXCEPTION WHEN SQLSTATE 'BL000' THEN NULL; END; "

// limit makes of lock_timeout what is left of a burst.
func limit(burst time.Duration) string {
	return fmt.Sprintf("x := pg_catalog.set_config('lock_timeout', GREATEST(1, %d OPERATOR(pg_catalog.-) (1000 OPERATOR(pg_catalog.*) "+
		"EXTRACT(EPOCH FROM (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.statement_timestamp())))::pg_catalog.int8)::pg_catalog.text, true); ", burst.Milliseconds())
}

// leaving is a query for the numbers of leases that are over and not quite gone.
// A lease that lives has its lock as well, and pg_locks shows all locks as of one
// moment.
func (l Lease) leaving() string {
	return fmt.Sprintf("SELECT pg_catalog.max((%d::pg_catalog.int8 OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) l.objid::pg_catalog.int8) AS number "+
		"FROM %s GROUP BY l.pid HAVING %s", l.Family(), here, l.leaves())
}

// leaves is true of a session, as a group of its locks, that has nothing left but
// a number.
func (l Lease) leaves() string {
	return fmt.Sprintf("pg_catalog.count(*) OPERATOR(pg_catalog.=) 1 AND pg_catalog.bool_and(l.objsubid OPERATOR(pg_catalog.=) 1::pg_catalog.int2 "+
		"AND l.classid OPERATOR(pg_catalog.=) %d::pg_catalog.oid AND l.mode OPERATOR(pg_catalog.=) 'ExclusiveLock')", l.Family())
}

// here are the advisory locks that somebody has in this database.
const here = `pg_catalog.pg_locks l WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted AND l.database OPERATOR(pg_catalog.=) ` +
	`(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())`

// TakeSQL is for a role without plpgsql: an expression that is true once the
// number is taken and nobody is in a gate. It only looks at the gates, in
// pg_locks, since without a subtransaction it could not give them back.
func (l Lease) TakeSQL() string {
	var in []string
	for _, gate := range l.Gates() {
		in = append(in, fmt.Sprintf("l.classid OPERATOR(pg_catalog.=) %d::pg_catalog.oid AND l.objid OPERATOR(pg_catalog.=) %d::pg_catalog.oid",
			uint32(uint64(gate)>>32), uint32(uint64(gate)))) //nolint:gosec // the two halves of the bits
	}
	return fmt.Sprintf("CASE WHEN %s THEN NOT EXISTS (SELECT FROM %s GROUP BY l.pid HAVING pg_catalog.bool_or(l.objsubid OPERATOR(pg_catalog.=) 1::pg_catalog.int2 AND (%s)) OR %s) END",
		call("pg_try_advisory_xact_lock", l.number), here, strings.Join(in, " OR "), l.leaves())
}

// CheckSQL is what a transaction of the lease sends. It affects one row if the
// lease lives, and from then on no successor begins before the transaction ends.
//
// The gate comes before the number that counts: a successor that passed it before
// the number was looked at would otherwise be missed. Both are only tried for:
// whoever finds the gate closed, or the number free, is late. The number is tried
// for in shared mode, so that two that are late do not take each other for the
// lease. It is tried for once more at the very beginning, so that those who are
// late, and try again and again, do not stand in the gate.
func (l Lease) CheckSQL() string {
	return "SELECT " + l.idleLimit() + "; SELECT 1 WHERE " + l.lives()
}

// RaiseSQL is CheckSQL as a single statement, for a transaction of another
// program: it raises an exception with the SQLSTATE BL001 if the lease is lost.
func (l Lease) RaiseSQL() string {
	return "DO $bootlock$ BEGIN PERFORM " + l.idleLimit() + "; IF NOT (" + l.lives() + ") THEN " +
		"RAISE EXCEPTION 'bootlock: the lock was lost, and somebody else may have it' USING ERRCODE = 'BL001'; END IF; END $bootlock$"
}

func (l Lease) lives() string {
	late := call("pg_try_advisory_xact_lock_shared", l.number)
	return fmt.Sprintf("CASE WHEN %s THEN false WHEN %s THEN NOT %s ELSE false END",
		late, call("pg_try_advisory_xact_lock_shared", l.gate(l.shared)), late)
}

// idleLimit gives the transaction the TTL of the lease as its limit for being
// idle, unless it has a shorter one: a holder that is frozen within it must not
// keep the next one out for longer than one that is frozen elsewhere.
func (l Lease) idleLimit() string {
	const name, zero = "idle_in_transaction_session_timeout", "'0'::pg_catalog.interval"
	ttl := fmt.Sprintf("%dms", l.ttl.Milliseconds())
	return fmt.Sprintf("pg_catalog.set_config('%[1]s', (SELECT CASE WHEN limited.at OPERATOR(pg_catalog.>) %[2]s AND limited.at OPERATOR(pg_catalog.<) '%[3]s'::pg_catalog.interval "+
		"THEN pg_catalog.current_setting('%[1]s') ELSE '%[3]s' END FROM (SELECT pg_catalog.current_setting('%[1]s')::pg_catalog.interval AS at) limited), true)", name, zero, ttl)
}

func call(function string, key int64) string { return callOn(function, strconv.FormatInt(key, 10)) }

func callOn(function, key string) string { return fmt.Sprintf("pg_catalog.%s(%s)", function, key) }

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
