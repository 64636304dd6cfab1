package recdriver

import (
	"context"
	"regexp"
	"strconv"
	"time"
)

var (
	// pieces matches statements. One that has a semicolon in quotes or in a comment
	// falls apart, which matters to none that is about locks but the DO block.
	pieces  = regexp.MustCompile(`(?s)DO \$bootlock\$.*?\$bootlock\$|[^;\s][^;]*`)
	blocks  = regexp.MustCompile(`\bpg_advisory_xact_lock\((-?\d+)\)`)
	idleFor = regexp.MustCompile(`idle_in_transaction_session_timeout\W+(\d+)ms`)
)

// run has the lock server see to all statements of a text. It returns what the last
// one answers.
func (b *backendConn) run(ctx context.Context, text string) (rows int, err error) {
	rows = other
	for _, st := range pieces.FindAllString(text, -1) {
		if b.aborted {
			return other, errAborted
		}
		if rows, err = b.own(ctx, st); rows == other && err == nil {
			rows, err = b.block(ctx, st)
		}
		if err != nil {
			return other, err
		}
	}
	return rows, nil
}

// block takes the locks of a statement that waits for them.
func (b *backendConn) block(ctx context.Context, st string) (rows int, err error) {
	b.limitIdle(st)
	rows = other
	for _, m := range blocks.FindAllStringSubmatch(st, -1) {
		key, _ := strconv.ParseInt(m[1], 10, 64) // it is one: the expression says so
		if err := b.session.acquire(ctx, key, 0); err != nil {
			return other, err
		}
		rows = granted
	}
	return rows, nil
}

func (b *backendConn) limitIdle(st string) {
	if m := idleFor.FindStringSubmatch(st); m != nil {
		ms, _ := strconv.Atoi(m[1])
		b.session.setIdle(time.Duration(ms) * time.Millisecond)
	}
}
