package recdriver

import (
	"context"
	"database/sql/driver"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// point matches what matters in a statement: a lock function with one number or
// parameter (groups 1 to 3), or a timeout being set (groups 4 to 6).
var point = regexp.MustCompile(`(?i)\bpg_(try_)?advisory_xact_lock(_shared)?\s*\([\s('"]*(-?\d+|\$\d+)['"\s]*(?:::\s*\w+\s*)?\)` +
	`|\b(lock_timeout|idle_in_transaction_session_timeout)['"]?\s*(?:,|=|\bto\b)\s*'?(\d+)\s*(ms|s|min|h)?\b`)

var (
	where  = regexp.MustCompile(`(?i)\bwhere\b`)
	opens  = regexp.MustCompile(`(?i)^\s*(begin|start\s+transaction)\b`)
	closes = regexp.MustCompile(`(?i)^\s*(commit|end|rollback|abort)\b`)
	goBack = regexp.MustCompile(`(?i)^\s*rollback\s+to\b`)
)

// answer is what the lock server says to the last statement of a text; nil if
// that was not about locks.
type answer struct {
	column string
	values []driver.Value // one per row
}

// run has the lock server see to all statements of a text. It returns the
// answer to the last one.
func (b *backendConn) run(ctx context.Context, text string, args []driver.NamedValue, prepared bool) (*answer, error) {
	statements := split(text)
	if len(statements) > 1 && (prepared || len(args) > 0) {
		return nil, errCommands
	}
	var ans *answer
	var timeout time.Duration // lock_timeout
	for _, st := range statements {
		ends := closes.MatchString(st)
		back := goBack.MatchString(st)
		switch {
		case b.aborted && !ends:
			return nil, errAborted
		case back:
			b.aborted = false
		case ends:
			b.endTx()
		case opens.MatchString(st):
			b.inTx = true
		}
		var err error
		ans, err = b.statement(ctx, st, args, &timeout)
		if err != nil {
			return nil, err
		}
	}
	return ans, nil
}

func (b *backendConn) statement(ctx context.Context, st string, args []driver.NamedValue, timeout *time.Duration) (*answer, error) {
	if !aboutLocks(st) {
		return nil, nil
	}
	if ans, ok, err := b.own(ctx, st); ok {
		return ans, err
	}
	var ans *answer
	taken := true
	for _, at := range point.FindAllStringSubmatchIndex(st, -1) {
		group := func(i int) string {
			if at[2*i] < 0 {
				return ""
			}
			return st[at[2*i]:at[2*i+1]]
		}
		if name := group(4); name != "" {
			b.limit(name, duration(group(5), group(6)), timeout)
			continue
		}

		key, err := number(group(3), args)
		if err != nil {
			return nil, err
		}
		exclusive := group(2) == ""
		if group(1) != "" {
			taken = b.session.try(key, exclusive) && taken
			ans = &answer{"pg_try_advisory_xact_lock", []driver.Value{taken}}
			if where.MatchString(st[:at[0]]) {
				ans = &answer{"?column?", nil}
				if taken {
					ans.values = []driver.Value{int64(1)}
				}
			}
		} else {
			if err := b.session.acquire(ctx, key, exclusive, *timeout); err != nil {
				return nil, err
			}
			ans = &answer{"pg_advisory_xact_lock", []driver.Value{[]byte{}}}
		}
	}
	return ans, nil
}

func (b *backendConn) limit(name string, d time.Duration, lockTimeout *time.Duration) {
	if strings.EqualFold(name, "lock_timeout") {
		*lockTimeout = d
	} else {
		b.session.setIdle(d)
	}
}

// aboutLocks spares most statements the regular expressions.
func aboutLocks(st string) bool {
	low := strings.ToLower(st)
	return strings.Contains(low, "advisory_xact_lock") || strings.Contains(low, "lock_timeout") ||
		strings.Contains(low, "idle_in_transaction_session_timeout") || strings.Contains(st, "bootlock") || strings.Contains(st, "pg_stat_get_activity")
}

func number(text string, args []driver.NamedValue) (int64, error) {
	if strings.HasPrefix(text, "$") {
		for _, a := range args {
			if text == fmt.Sprintf("$%d", a.Ordinal) {
				text = fmt.Sprint(a.Value)
				break
			}
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, SQLError{Code: "22P02", Message: fmt.Sprintf("invalid input syntax for type bigint: %q", text)}
	}
	return n, nil
}

func duration(number, unit string) time.Duration {
	if unit == "" {
		unit = "ms"
	}
	if unit == "min" {
		unit = "m"
	}
	d, _ := time.ParseDuration(number + strings.ToLower(unit))
	return d
}

// token matches what a semicolon or a quote inside does not end: comments, and
// strings in quotes of any kind but dollars.
var token = regexp.MustCompile(`^(?:--[^\n]*|(?s:/\*.*?\*/)|'[^']*'|"[^"]*")`)

var dollar = regexp.MustCompile(`^\$(?:[A-Za-z_]\w*)?\$`)

// split cuts text at the semicolons between statements, and drops comments and
// empty statements.
func split(text string) []string {
	var statements []string
	var st strings.Builder
	cut := func() {
		if s := strings.TrimSpace(st.String()); s != "" {
			statements = append(statements, s)
		}
		st.Reset()
	}
	for len(text) > 0 {
		n := piece(text)
		switch {
		case text[0] == ';':
			cut()
		case text[0] == '-' && n > 1, text[0] == '/' && n > 1:
			st.WriteByte(' ')
		default:
			st.WriteString(text[:n])
		}
		text = text[n:]
	}
	cut()
	return statements
}

// piece is the length of what text begins with: plain text up to something special, a
// comment, something in quotes, or a single character.
func piece(text string) int {
	special := strings.IndexAny(text, ";-/'\"$")
	if special < 0 {
		return len(text)
	}
	if special > 0 {
		return special
	}
	if t := token.FindString(text); t != "" {
		return len(t)
	}
	tag := dollar.FindString(text)
	if tag == "" {
		return 1
	}
	end := strings.Index(text[len(tag):], tag)
	if end < 0 {
		return len(text)
	}
	return end + 2*len(tag)
}
