package recdriver

import (
	"context"
	"database/sql/driver"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The statements of packages advisorylock and fence, as far as they go beyond a
// lock function or two: what they mean is written here once more, in Go. That
// the SQL means the same is for the tests on real servers to say.

var (
	lockCall = regexp.MustCompile(`advisory_xact_lock(_shared)?\((-?\d+)\)`)
	blockFor = regexp.MustCompile(`set_config\('lock_timeout', '(\d+)ms'`)
	ownMark  = regexp.MustCompile(`mark OPERATOR\(pg_catalog\.<>\) (-?\d+)`)
	seenGate = regexp.MustCompile(`l\.classid OPERATOR\(pg_catalog\.=\) (\d+)::pg_catalog\.oid AND l\.objid OPERATOR\(pg_catalog\.=\) (\d+)::`)
)

// What the statements answer, as package room has it.
const (
	granted, refused, back, leave, glance = 1, 2, 3, 4, 5
	answers                               = 8
	marks                                 = 32
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
func (b *backendConn) own(ctx context.Context, st string) (*answer, bool, error) {
	calls := lockCalls(st)
	switch {
	case strings.HasPrefix(st, "DO $bootlock$"):
		b.session.server.mu.Lock()
		plain := b.session.server.plain
		b.session.server.mu.Unlock()
		if plain {
			return nil, true, SQLError{Code: "42501", Message: "permission denied for language plpgsql"}
		}
		if strings.Contains(st, "BL001") {
			return &answer{}, true, b.raise(calls)
		}
		err := b.doBlock(ctx, st, calls)
		return &answer{}, true, err
	case strings.Contains(st, "generate_series(1, pg_catalog.current_setting('bootlock.answer')"):
		return rowsOf(b.said), true, nil
	case strings.Contains(st, "generate_series(1, CASE WHEN"):
		return rowsOf(b.ask(st, calls)), true, nil
	case strings.HasPrefix(st, "SELECT 1 WHERE CASE WHEN") && len(calls) == 3:
		n := 0
		if b.lives(calls) {
			n = 1
		}
		return rowsOf(n), true, nil
	}
	return nil, false, nil
}

func rowsOf(n int) *answer {
	return &answer{"", make([]driver.Value, n)}
}

// ask is the asking without plpgsql: the lock, the number of a lease, and a look
// at its gates, which are not taken.
func (b *backendConn) ask(st string, calls []lockCalled) int {
	if !b.session.try(calls[0].key, calls[0].exclusively) {
		return refused
	}
	if !strings.Contains(st, "pg_locks") {
		if !b.inTx {
			b.session.release(calls[0].key)
		}
		return granted
	}
	b.session.try(calls[1].key, true)
	for _, m := range seenGate.FindAllStringSubmatch(st, -1) {
		high, _ := strconv.ParseUint(m[1], 10, 32)
		low, _ := strconv.ParseUint(m[2], 10, 32)
		if b.session.server.Held()[int64(high<<32|low)] > 0 {
			return refused
		}
	}
	return granted
}

// doBlock is asking with plpgsql: try, look, block, draw the number, pass the
// gates.
func (b *backendConn) doBlock(ctx context.Context, st string, calls []lockCalled) error {
	b.said = refused
	mark, own := 0, int(b.session.number%marks)+1
	key := calls[0]
	burst := time.Duration(0)
	if m := blockFor.FindStringSubmatch(st); m != nil {
		ms, _ := strconv.Atoi(m[1])
		burst = time.Duration(ms) * time.Millisecond
	}
	m := ownMark.FindStringSubmatch(st)
	switch {
	case m != nil:
		mark = own
		got := b.session.try(key.key, key.exclusively)
		b.session.server.mu.Lock()
		short := b.session.server.short && strings.Contains(st, "pg_stat_get_activity")
		b.session.server.mu.Unlock()
		switch {
		case got:
		case short:
			b.said = leave
		case m[1] == "-1":
			b.said = glance
		case m[1] != strconv.Itoa(mark):
			b.said = back
		}
		calls = calls[1:]
	case burst == 0:
		if !b.session.try(key.key, key.exclusively) {
			return nil
		}
		calls = calls[1:]
	}
	if b.said == refused {
		if err := b.grant(ctx, calls, burst); err != nil {
			return err
		}
		if b.said == refused && strings.Contains(st, "INTO mark") {
			mark = own
		}
	}
	b.said += mark * answers
	return nil
}

// grant takes the lock, the number of a lease, and passes its gates.
func (b *backendConn) grant(ctx context.Context, calls []lockCalled, burst time.Duration) error {
	until := time.Now().Add(burst)
	for i, c := range calls {
		limit := time.Until(until)
		gate := i > 1
		switch {
		case burst == 0 && gate && !b.session.try(c.key, c.exclusively):
			return nil
		case burst == 0 && gate:
			b.session.release(c.key)
			continue
		}
		err := b.session.acquire(ctx, c.key, c.exclusively, max(limit, 1))
		if errors.Is(err, errTimeout) {
			for _, c := range calls[:i] {
				b.session.release(c.key)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if gate {
			b.session.release(c.key)
		}
	}
	b.said = granted
	return nil
}

// lives is the check of a fence: the number, the gate, and the number again.
func (b *backendConn) lives(calls []lockCalled) bool {
	number, gate := calls[0].key, calls[1].key
	return !b.session.try(number, false) && b.session.try(gate, false) && !b.session.try(number, false)
}

func (b *backendConn) raise(calls []lockCalled) error {
	if b.lives(calls) {
		return nil
	}
	return SQLError{Code: "BL001", Message: "bootlock: the lock was lost, and somebody else may have it"}
}
