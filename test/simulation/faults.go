package simulation

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/bootlock/bootlock/internal/recdriver"
)

var (
	errFull     = recdriver.SQLError{Code: "53300", Message: "sorry, too many clients already"}
	errStarting = recdriver.SQLError{Code: "57P03", Message: "the database system is starting up"}
	errBroken   = recdriver.SQLError{Code: "58030", Message: "could not read block 7"}
	errAway     = errors.New("the connection was abandoned")
)

// meet is called before each driver call of the process.
func (p *process) meet(ctx context.Context, c *recdriver.Call) error {
	n := p.calls.Add(1)
	rng := rand.New(rand.NewPCG(p.w.Seed, uint64(p.number+2)<<40|n)) //nolint:gosec // it must be repeatable
	if c.Kind == recdriver.Release || c.Kind == recdriver.Close || c.Kind == recdriver.Take {
		p.leavePooler(c.Conn)
		p.mu.Lock()
		delete(p.begun, c.Conn)
		p.mu.Unlock()
		return nil
	}
	in := p.inTransaction(ctx, c)
	if in != nil && in.Err() != nil {
		return errAway
	}
	latency := time.Duration(50_000 + rng.Int64N(1_000_000))
	p.mu.Lock()
	cut, refused := p.cut, p.refused
	p.mu.Unlock()
	if err := p.pause(ctx, in, max(latency, time.Until(cut)), true); err != nil {
		return err
	}
	if c.Kind == recdriver.Connect && time.Now().Before(refused) {
		if rng.IntN(2) == 0 {
			return errFull
		}
		return errStarting
	}
	if err := p.enterPooler(ctx, c); err != nil {
		return err
	}
	if rng.Float64() >= p.w.rate || p.w.isCalm() {
		return nil
	}
	p.w.count()
	return p.fault(ctx, in, c, rng)
}

func (p *process) fault(ctx, in context.Context, c *recdriver.Call, rng *rand.Rand) error {
	d := time.Duration(1 + rng.Int64N(int64(4*time.Second)))
	heeds := strings.HasPrefix(c.Query, "CREATE SCHEMA") // as with the user's, see pause
	switch rng.IntN(8) {
	case 0:
		return driver.ErrBadConn
	case 1:
		return recdriver.After(driver.ErrBadConn)
	case 2:
		return errBroken
	case 3: // slow
		return p.pause(ctx, in, d, true)
	case 4: // hangs until its context ends
		return p.pause(ctx, in, settled, true)
	case 5: // hangs, whatever its context says
		return p.pause(ctx, in, settled, heeds)
	case 6: // answers late
		return recdriver.Later(func() { _ = p.pause(ctx, in, d, heeds) })
	default:
		p.w.killed(p)
		p.driver.Kill(c.Conn)
		return nil
	}
}

// pause lasts for d, until the faults are over, or until nobody waits for the
// call any more. Where the context of the transaction never ends, that of the
// call counts: the transaction is the user's, and a rollback behind a statement
// that does not come back waits for a mutex, which stops the clock.
func (p *process) pause(ctx, in context.Context, d time.Duration, heeds bool) error {
	calm := p.w.calm
	if d < 2*time.Millisecond {
		calm = nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	var ended, abandoned <-chan struct{}
	if in != nil {
		abandoned = in.Done()
	}
	if heeds || in != nil && abandoned == nil {
		ended = ctx.Done()
	}
	select {
	case <-timer.C:
	case <-calm:
	case <-ended:
		return ctx.Err()
	case <-abandoned:
		return errAway
	}
	return nil
}

// inTransaction returns the context that the connection's transaction was begun
// with: it ends when the library gives the transaction up.
func (p *process) inTransaction(ctx context.Context, c *recdriver.Call) context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.begun[c.Conn]
	switch c.Kind {
	case recdriver.Begin:
		p.begun[c.Conn] = ctx
		return nil
	case recdriver.Commit, recdriver.Rollback:
		delete(p.begun, c.Conn)
	}
	return in
}

// A pooler gives a connection of the server to each transaction.
func (p *process) enterPooler(ctx context.Context, c *recdriver.Call) error {
	if p.w.pooler == nil || c.Kind == recdriver.Connect {
		return nil
	}
	switch c.Kind {
	case recdriver.Commit, recdriver.Rollback:
		p.leavePooler(c.Conn)
		return nil
	}
	p.mu.Lock()
	has := p.pooled[c.Conn]
	p.mu.Unlock()
	if has {
		return nil
	}
	select {
	case p.w.pooler <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * time.Minute):
		return recdriver.SQLError{Code: "08P01", Message: "query_wait_timeout"}
	}
	if c.Kind != recdriver.Begin {
		<-p.w.pooler
		return nil
	}
	p.mu.Lock()
	p.pooled[c.Conn] = true
	p.mu.Unlock()
	return nil
}

func (p *process) leavePooler(conn int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pooled[conn] {
		delete(p.pooled, conn)
		<-p.w.pooler
	}
}
