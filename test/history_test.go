package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/test/history"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/sqltest"
)

const (
	// envHistories is for how long [TestHistories] goes on, such as 5m.
	envHistories = "BOOTLOCK_HISTORIES"

	historyTTL   = 3 * time.Second
	historySlack = historyTTL / 30 // on a busy machine; a lease ends a tenth of its TTL before the server's
)

var historyKeys = []advisorylock.Key{8801, 8802}

// Four members take locks in all ways and write behind their fences, while sessions
// are ended and networks are reset, fall silent or are late. What they saw must be a
// history of locks that keep their promises. Without locks, and without fences, it is
// seen not to be.
func TestHistories(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	lasts, err := time.ParseDuration(os.Getenv(envHistories))
	if err != nil {
		lasts = 12 * time.Second
	}
	t.Run("kept", func(t *testing.T) {
		t.Parallel()
		fleet := newHistoryFleet(t, server, "")
		ops := fleet.run(t, lasts)
		t.Logf("%d operations: %v; goroutines were up to %v late", len(ops), countKinds(ops), fleet.log.Late())
		if err := history.Verify(ops); err != nil {
			t.Error(err)
		}
	})
	for _, control := range []string{"no lock", "no fence"} {
		t.Run("control/"+control, func(t *testing.T) {
			t.Parallel()
			for range 10 {
				ops := newHistoryFleet(t, server, control).run(t, 2*time.Second)
				var no *history.Rejected
				if errors.As(history.Check(ops), &no) {
					t.Logf("rejected: a history of %d operations: %v", len(ops), countKinds(ops))
					return
				}
			}
			t.Error("no history was rejected: the test shows nothing")
		})
	}
}

func countKinds(ops []history.Op) map[string]int {
	n := map[string]int{}
	for _, op := range ops {
		kind := string(op.Kind)
		if op.Kind == history.Fenced && !op.OK {
			kind = "refused by a fence"
		}
		n[kind]++
	}
	return n
}

// historyFleet are members that share the locks of one database.
type historyFleet struct {
	db      testDB
	control string
	log     *history.Log
	holders atomic.Int64
	members []*historyMember
	late    sync.WaitGroup // those who go on writing
}

type historyMember struct {
	fleet   *historyFleet
	number  int
	network *network
	locks   *sql.DB
	writes  *sql.DB
}

func newHistoryFleet(t *testing.T, server *pgtest.Server, control string) *historyFleet {
	t.Helper()
	f := &historyFleet{db: newTestDB(t, server), control: control, log: history.New(historySlack)}
	sqltest.Exec(t, f.db.admin, "CREATE TABLE writes (holder int)")
	for i := range 4 {
		n := newNetwork(t, f.db.dsn)
		driver := drivers[i%len(drivers)]
		f.members = append(f.members, &historyMember{f, i, n, locktest.Pool(t, driver, n.dsn), locktest.Pool(t, driver, f.db.dsn)})
	}
	return f
}

func (f *historyFleet) run(t *testing.T, lasts time.Duration) []history.Op {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var all sync.WaitGroup
	for _, m := range f.members {
		all.Go(func() { m.work(ctx) })
	}
	all.Go(func() { f.silence(ctx) })
	all.Go(func() { f.log.Watch(ctx) })
	f.endSessions(t, ctx)
	all.Wait()
	f.late.Wait()
	return f.log.Ops()
}

// endSessions ends sessions of holders, and connections of members, until ctx ends.
func (f *historyFleet) endSessions(t *testing.T, ctx context.Context) {
	t.Helper()
	for ctx.Err() == nil {
		if rand.IntN(3) > 0 {
			f.terminate(t, historyKeys[rand.IntN(len(historyKeys))])
		} else {
			m := f.members[rand.IntN(len(f.members))]
			m.ended(m.network.Reset)
		}
		pause(ctx, time.Duration(200+rand.IntN(300))*time.Millisecond)
	}
}

// silence has one network after the other fall silent for longer than a lease lasts.
func (f *historyFleet) silence(ctx context.Context) {
	for ctx.Err() == nil {
		m := f.members[rand.IntN(len(f.members))]
		m.network.Silence([]relay.Silence{relay.Lost, relay.Late}[rand.IntN(2)])
		pause(ctx, historyTTL+historyTTL/2)
		m.ended(m.network.Speak) // which resets those that have lost something
		pause(ctx, historyTTL/4)
	}
}

// ended does what ends sessions of the member.
func (m *historyMember) ended(by func()) {
	asked := m.fleet.log.Now()
	by()
	m.fleet.log.Add(history.Op{Kind: history.Ended, Process: m.number, Call: asked})
}

// terminate ends the sessions that have the lock.
func (f *historyFleet) terminate(t *testing.T, key advisorylock.Key) {
	t.Helper()
	asked := f.log.Now()
	if locktest.Terminate(t, f.db.admin, key) > 0 {
		f.log.Add(history.Op{Kind: history.Ended, Process: history.Everybody, Call: asked})
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (m *historyMember) work(ctx context.Context) {
	for ctx.Err() == nil {
		m.once(ctx, advisorylock.Locker{TTL: historyTTL}, historyKeys[rand.IntN(10)/7])
		pause(ctx, time.Duration(rand.IntN(100))*time.Millisecond)
	}
}

// once takes a lock in one of the four ways, and writes.
func (m *historyMember) once(ctx context.Context, l advisorylock.Locker, key advisorylock.Key) {
	way := rand.IntN(4)
	if way > 1 {
		l.TTL = 0 // no heartbeat would show that a transaction lives that does nothing for a while
	}
	call := m.fleet.log.Ask(history.Op{Process: m.number, Key: int64(key), Lease: way < 2})
	fn := func(ctx context.Context) error {
		id := int(m.fleet.holders.Add(1))
		over := call.Granted(ctx, id)
		defer over()
		if way < 2 {
			m.fleet.late.Go(func() { m.goOn(ctx, call, id) })
		}
		pause(ctx, []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, historyTTL * 3 / 2}[rand.IntN(3)])
		return context.Cause(ctx)
	}
	inTx := func(ctx context.Context, _ *sql.Tx) error { return fn(ctx) }
	var err error
	switch {
	case m.fleet.control == "no lock":
		err = fn(ctx)
	case way == 0:
		err = l.Hold(ctx, m.locks, key, fn)
	case way == 1:
		err = l.TryHold(ctx, m.locks, key, fn)
	case way == 2:
		err = l.WithXactLock(ctx, m.locks, key, inTx)
	default:
		err = l.TryWithXactLock(ctx, m.locks, key, inTx)
	}
	call.Returned(err)
}

// goOn writes for half a second, as one does who does not look at its context.
func (m *historyMember) goOn(ctx context.Context, call *history.Client, holder int) {
	lost := context.WithoutCancel(ctx)
	for end := time.Now().Add(time.Second / 2); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		_ = m.write(ctx, lost, call, holder)
	}
}

func (m *historyMember) write(ctx, lost context.Context, call *history.Client, holder int) error {
	tx, err := m.writes.BeginTx(lost, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it may have been committed
	if m.fleet.control == "" {
		asked := m.fleet.log.Now()
		err := sqltest.AskFence(ctx, lost, tx)
		refused := sqlstate.Of(err) == "22P02" // the lock was lost
		if err == nil || refused {
			call.Fenced(asked, !refused)
		}
		if err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(lost, fmt.Sprintf("INSERT INTO writes VALUES (%d)", holder)); err != nil {
		return err
	}
	asked := m.fleet.log.Now()
	if err := tx.Commit(); err != nil {
		return err
	}
	call.Committed(asked)
	return nil
}
