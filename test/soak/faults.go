//go:build unix

package soak

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
)

// between is how much time goes by between two faults, on average.
const between = 150 * time.Millisecond

// storm does what goes wrong until ctx ends. The server is restarted twice, or more
// often in a long run.
func (f *fleet) storm(t *testing.T, ctx context.Context, lasts time.Duration) {
	t.Helper()
	var lasting sync.WaitGroup
	defer lasting.Wait()
	every := min(lasts/3, time.Minute)
	restart := time.Now().Add(every)
	for n := 0; ctx.Err() == nil; {
		if time.Now().After(restart) {
			n++
			f.restart(t, n)
			restart = time.Now().Add(every)
		}
		m := f.members[rand.IntN(len(f.members))]
		what := f.choose(ctx, m)
		if m.busy.TryLock() {
			lasting.Go(func() {
				defer m.busy.Unlock()
				what()
			})
		}
		sleepFor(ctx, time.Duration(rand.Int64N(int64(2*between))))
	}
}

// untilLate ends sessions until a transaction was late.
func (f *fleet) untilLate(ctx context.Context) {
	for {
		select {
		case <-f.late:
			return
		case <-ctx.Done():
			return
		case <-time.After(ttl / 2): // the next holder has to come to its transaction
			f.terminate(ctx)
		}
	}
}

// untilLost waits until an update was lost.
func (f *fleet) untilLost(ctx context.Context) {
	for lost := false; !lost && ctx.Err() == nil; sleepFor(ctx, between) {
		_ = f.admin.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM writes) <> (SELECT sum(n) FROM counters)").Scan(&lost)
	}
}

func sleepFor(ctx context.Context, d time.Duration) { _ = sleep(ctx, d) }

// restart ends the server, in order or at once, and starts it again.
func (f *fleet) restart(t *testing.T, n int) {
	t.Helper()
	kind, signal := fast, syscall.SIGINT
	if n%2 == 0 {
		kind, signal = immediate, syscall.SIGQUIT
	}
	over := f.begin(kind, everybody)
	defer over()
	f.server.End(t, signal)
	f.server.StartAgain(t)
}

// choose returns a fault to be done, most of them for m.
func (f *fleet) choose(ctx context.Context, m *member) func() {
	d := time.Duration(rand.Int64N(int64(2 * ttl)))
	switch rand.IntN(12) {
	case 0:
		return func() { f.kill(ctx, m, d/4) }
	case 1, 2:
		return func() { f.freeze(ctx, m, d) }
	case 3, 4, 5, 6:
		return func() { f.terminate(ctx) }
	case 7, 8:
		return func() {
			defer f.begin(reset, m.Number)()
			m.network.Reset()
		}
	case 9:
		return func() { f.silence(ctx, m, []relay.Silence{relay.Lost, relay.Late, relay.Deaf}[rand.IntN(3)], d) }
	case 10:
		return func() { f.slow(ctx, m, d) }
	default:
		return func() { f.fill(ctx, d/3) }
	}
}

func (f *fleet) kill(ctx context.Context, m *member, d time.Duration) {
	over := f.begin(kill, m.Number)
	at := now()
	_ = m.end(syscall.SIGKILL)
	f.killed(m.Number, at)
	over()
	sleepFor(ctx, d)
	f.start(m)
}

func (f *fleet) freeze(ctx context.Context, m *member, d time.Duration) {
	defer f.begin(freeze, m.Number)()
	m.signal(syscall.SIGSTOP)
	sleepFor(ctx, d)
	m.signal(syscall.SIGCONT)
}

// terminate ends one of the sessions that have a lock.
func (f *fleet) terminate(ctx context.Context) {
	const one = `SELECT pid, application_name FROM pg_stat_activity WHERE usename = '` + pgtest.WeakRole + `' AND pid IN
(SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid < 1000) ORDER BY random() LIMIT 1`
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var pid, number int
	var name string
	if err := f.admin.QueryRowContext(ctx, one).Scan(&pid, &name); err != nil {
		return // there is none, or the server is being restarted
	}
	if _, err := fmt.Sscanf(name, applicationName, &number); err != nil {
		return
	}
	// Behind the pooler the session may be another one's by now.
	for _, m := range f.members {
		if m.Number == number || m.pooled && f.members[number].pooled {
			defer f.begin(terminate, m.Number)()
		}
	}
	_, _ = f.admin.ExecContext(ctx, fmt.Sprintf("SELECT pg_terminate_backend(%d)", pid))
}

func (f *fleet) silence(ctx context.Context, m *member, kind relay.Silence, d time.Duration) {
	over := f.begin(silent, m.Number)
	m.network.Silence(kind)
	sleepFor(ctx, d)
	if kind == relay.Lost { // whoever has lost something is reset
		defer f.begin(reset, m.Number)()
	}
	m.network.Speak()
	over()
}

// slow lets through in gusts what is sent.
func (f *fleet) slow(ctx context.Context, m *member, d time.Duration) {
	defer f.begin(slow, m.Number)()
	for end := time.Now().Add(d); time.Now().Before(end); {
		m.network.Silence(relay.Late)
		sleepFor(ctx, time.Duration(rand.IntN(100))*time.Millisecond)
		m.network.Speak()
		sleepFor(ctx, 5*time.Millisecond)
	}
}

// fill leaves the role of all processes hardly a connection.
func (f *fleet) fill(ctx context.Context, d time.Duration) {
	defer f.begin(full, everybody)()
	limit(f.admin, 3)
	sleepFor(ctx, d)
	limit(f.admin, -1)
}

// limit tries again while the server is being restarted.
func limit(admin *sql.DB, n int) {
	for end := time.Now().Add(await.Limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := admin.Exec(fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", pgtest.WeakRole, n)); err == nil {
			return
		}
	}
}
