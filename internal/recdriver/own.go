package recdriver

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// What the statements of packages advisorylock and fence mean, as far as they go
// beyond a lock function or two. Tests on real servers check that the SQL means the
// same. How a waiter goes on after an answer is not here: tests run the package itself.

var (
	lockCall = regexp.MustCompile(`advisory_xact_lock(_shared)?\((-?\d+)\)`)
	queueKey = regexp.MustCompile(`set_config\('bootlock\.k', '(-?\d+)'`)
	oids     = regexp.MustCompile(`'(\d+)'::pg_catalog\.oid`)
	ownPID   = regexp.MustCompile(`pg_backend_pid\(\) OPERATOR\(pg_catalog\.<>\) '(\d+)'::pg_catalog.int8 THEN 0`)
)

// What they answer, as the number of rows, and what any other statement does.
const (
	other, taken, granted, standby, short = -1, 0, 1, 2, 3

	burst = 900 * time.Millisecond
)

type lockCalled struct {
	key         int64
	exclusively bool
}

func lockCalls(st string) []lockCalled {
	var calls []lockCalled
	for _, m := range lockCall.FindAllStringSubmatch(st, -1) {
		key, _ := strconv.ParseInt(m[2], 10, 64) // it is one: the expression says so
		calls = append(calls, lockCalled{key, m[1] == ""})
	}
	return calls
}

// own answers a statement of these packages, if st is one.
func (b *backendConn) own(ctx context.Context, st string) (rows int, err error) {
	calls := lockCalls(st)
	switch {
	case strings.HasPrefix(st, "DO $bootlock$"):
		return taken, b.queue(ctx)
	case strings.Contains(st, "set_config('bootlock.k'"):
		b.inVain = false
		b.queued, _ = strconv.ParseInt(queueKey.FindStringSubmatch(st)[1], 10, 64)
		b.limitIdle(st)
		return taken, nil
	case strings.Contains(st, "pg_is_in_recovery() THEN 2"):
		n := b.take(st, calls)
		if n == granted {
			b.limitIdle(st)
		}
		return n, nil
	case strings.Contains(st, "generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock_shared"):
		return b.free(st, calls), nil
	case strings.Contains(st, "generate_series(1, CASE WHEN pg_catalog.pg_try_advisory_xact_lock("):
		if b.session.try(calls[0].key, true) {
			return granted, nil
		}
		return taken, nil
	case ownPID.MatchString(st):
		return b.mayQueue(ownPID.FindStringSubmatch(st)[1]), nil
	case strings.HasPrefix(st, "SELECT 1 WHERE EXISTS (SELECT FROM pg_catalog.pg_roles"):
		return map[bool]int{true: 1}[b.session.server.short.Load()], nil
	case len(calls) == 3:
		return b.fence(st, calls)
	}
	return other, nil
}

// fence answers the two forms of the check that a transaction of a lease makes.
func (b *backendConn) fence(st string, calls []lockCalled) (rows int, err error) {
	switch {
	case b.lives(calls):
		return 1, nil
	case strings.Contains(st, "CASE WHEN CASE WHEN"):
		return other, SQLError{Code: "22P02", Message: `invalid input syntax for type integer: "bootlock: the lock was lost, and somebody else may have it"`}
	}
	return 0, nil
}

// take tries for the lock, and for a lease for the number, and looks whether anything is left of an earlier lease. The first call stands in
// front of the condition.
func (b *backendConn) take(st string, calls []lockCalled) int {
	s := b.session
	switch {
	case s.server.standby.Load():
		return standby
	case b.inVain && strings.Contains(st, "current_setting('bootlock.k')"):
		return taken
	}
	for _, c := range calls[1:] {
		if !s.try(c.key, c.exclusively) {
			return taken
		}
	}
	parts := oids.FindAllStringSubmatch(st, -1)
	if parts == nil {
		return granted
	}
	part := func(i int) int64 {
		n, _ := strconv.ParseUint(parts[i][1], 10, 32)
		return int64(n) //nolint:gosec // 32 bits
	}
	if s.server.left(s, part(0), part(1)<<32|part(2)) {
		return taken
	}
	return granted
}

// left reports whether another session than s has a number of the family, or is in the
// gate.
func (s *Server) left(own *session, family, gate int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.locks {
		for h, exclusive := range l.holders {
			if h != own && (key == gate || key>>32&(1<<32-1) == family && exclusive) {
				return true
			}
		}
	}
	return false
}

// free says whether the lock is free, and if it is not, whether its holder is in need of
// connections, or they are short.
func (b *backendConn) free(st string, calls []lockCalled) int {
	try := func(key int64) bool {
		free := b.session.try(key, false)
		if free && !b.inTx {
			b.session.release(key)
		}
		return free
	}
	switch {
	case try(calls[0].key):
		return granted
	case len(calls) > 1 && !try(calls[1].key), strings.Contains(st, "EXISTS") && b.session.server.short.Load():
		return short
	}
	return taken
}

func (b *backendConn) mayQueue(pid string) int {
	s := b.session.server
	switch {
	case s.pooled.Load() || pid != strconv.Itoa(b.number):
		return taken
	case s.short.Load():
		return short
	}
	return granted
}

// queue blocks for the lock, for a burst.
func (b *backendConn) queue(ctx context.Context) error {
	if b.session.server.plain.Load() {
		return SQLError{Code: "42501", Message: "permission denied for language plpgsql"}
	}
	err := b.session.acquire(ctx, b.queued, burst)
	if errors.Is(err, errTimeout) {
		b.inVain = true
		b.session.setIdle(time.Second)
		return nil
	}
	return err
}

// lives is the check of a fence: the number, the gate, and the number again.
func (b *backendConn) lives(calls []lockCalled) bool {
	number, gate := calls[0].key, calls[1].key
	return !b.session.try(number, false) && b.session.try(gate, false) && !b.session.try(number, false)
}
