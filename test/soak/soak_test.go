//go:build unix

package soak

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/replica"
	"github.com/bootlock/bootlock/test/sqltest"
)

// envSoak is for how long [TestSoak] goes on, such as 10m.
const envSoak = "BOOTLOCK_SOAK"

func TestMain(m *testing.M) {
	if told := os.Getenv(envJob); told != "" {
		if err := work(told, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// Eight processes take locks while all goes wrong that can. No update of a counter
// is lost, no fenced transaction is late, and two have a lock at the same time only
// behind a fault of which it is documented, of whom one is told. Without the lock, and
// without the fence, that is seen not to be so.
func TestSoak(t *testing.T) {
	lasts, err := time.ParseDuration(os.Getenv(envSoak))
	if err != nil {
		lasts = 6 * time.Second
	}
	files := replica.NewFiles(t)
	t.Run("no lock", func(t *testing.T) {
		got := newFleet(t, files, noLock).run(t, await.Limit)
		if len(got.wrong) == 0 || got.rows == got.counted {
			t.Errorf("got %d overlaps without an excuse and %d lost updates; want some of both, or the test shows nothing", len(got.wrong), got.rows-got.counted)
		}
	})
	t.Run("no fence", func(t *testing.T) {
		if got := newFleet(t, files, noFence).run(t, await.Limit); got.stale == 0 {
			t.Error("got no stale transaction; want some, or the test shows nothing")
		}
	})
	t.Run("all", func(t *testing.T) {
		got := newFleet(t, files, "").run(t, lasts)
		for _, o := range got.wrong[:min(len(got.wrong), 5)] {
			t.Error(o)
		}
		if got.rows != got.counted || got.stale > 0 {
			t.Errorf("got %d lost updates and %d stale transactions; want none", got.rows-got.counted, got.stale)
		}
	})
}

// fleet is the processes, and what they have said.
type fleet struct {
	server  *replica.Server
	admin   *sql.DB
	members []*member
	late    chan struct{} // something is sent to it when a stale transaction was seen

	mu       sync.Mutex
	sections []section
	open     map[opened]int // the place of a section that has begun
	faults   []fault
	broken   []error // of processes that were not killed
}

// opened is the process and the number of a section.
type opened struct{ process, id int }

// member is a process, again and again.
type member struct {
	job
	pooled  bool
	network *relay.Relay
	busy    sync.Mutex // one fault at a time

	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{} // closed at the end of its output
}

const applicationName = "soak-%d"

func newFleet(t *testing.T, files replica.Files, control string) *fleet {
	t.Helper()
	f := &fleet{server: files.StartOne(t, "max_connections=200"), late: make(chan struct{}, 1), open: map[opened]int{}}
	as := &pgtest.Server{DSN: f.server.DSN()}
	f.admin = sqltest.Open(t, "pgx", prepare(t, as))
	dsn := pgtest.WithUser(as.DSNFor("soak"), pgtest.WeakRole, pgtest.WeakPassword)
	pooler, err := pgbouncer.Start(t.Context(), as, "transaction", 8, "server_login_retry = 1", "query_wait_timeout = 20")
	if err == nil {
		t.Cleanup(func() {
			if said := pooler.Log(); t.Failed() {
				t.Logf("PgBouncer said last: %s", said[max(0, len(said)-4000):])
			}
			pooler.Stop()
		})
	} else if !errors.Is(err, pgbouncer.ErrMissing) || os.Getenv("BOOTLOCK_REQUIRE_PGBOUNCER") == "1" {
		t.Fatal(err)
	}
	for i := range 8 {
		m := &member{pooled: i >= 6 && pooler != nil}
		way := dsn
		if m.pooled {
			way = pooler.DSN(dsn)
		}
		addr, err := pgtest.Addr(way)
		if err != nil {
			t.Fatal(err)
		}
		m.network = relay.New(t, addr)
		if m.pooled { // PgBouncer 1.18 ends itself on some of pgx's cancel requests
			m.network.DropCancels()
			plain := relay.New(t, addr)
			plain.DropCancels()
			way = pgtest.WithAddr(way, plain.Addr)
		}
		params := []string{"application_name", fmt.Sprintf(applicationName, i)}
		m.job = job{Number: i, Driver: "postgres", Control: control}
		if i%2 == 0 {
			m.Driver = "pgx"
			params = append(params, "default_query_exec_mode", "simple_protocol")
		}
		m.Writes = pgtest.WithParams(way, params...)
		m.Locks = pgtest.WithAddr(m.Writes, m.network.Addr)
		if i%4 < 2 { // for the others it is only the lock that faults of the network meet
			m.Writes = m.Locks
		}
		f.members = append(f.members, m)
	}
	return f
}

// prepare makes the database and returns its DSN.
func prepare(t *testing.T, server *pgtest.Server) string {
	t.Helper()
	admin := sqltest.Open(t, "pgx", server.DSN)
	sqltest.Exec(t, admin, "CREATE ROLE "+pgtest.WeakRole+" LOGIN PASSWORD '"+pgtest.WeakPassword+"'")
	sqltest.Exec(t, admin, "CREATE DATABASE soak OWNER "+pgtest.WeakRole)
	dsn := server.DSNFor("soak")
	db := sqltest.Open(t, "pgx", dsn)
	sqltest.Exec(t, db, `CREATE TABLE counters (key bigint PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 20);
CREATE TABLE writes (key bigint, n bigint, process int);
INSERT INTO counters SELECT key, 0 FROM generate_series(100, 299) key;
GRANT SELECT, INSERT, UPDATE ON counters, writes TO `+pgtest.WeakRole)
	return dsn
}

// run has all processes work while there are faults, and then until each has had its
// turn, and sums up.
func (f *fleet) run(t *testing.T, lasts time.Duration) tally {
	t.Helper()
	for _, m := range f.members {
		f.start(m)
		t.Cleanup(func() { _ = m.end(syscall.SIGKILL) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	switch f.members[0].Control {
	case noLock:
		f.untilLost(ctx)
	case noFence:
		f.untilLate(ctx)
	default:
		f.storm(t, ctx, lasts)
		f.everybodyWorks(t)
	}
	for _, m := range f.members {
		if err := m.end(0); err != nil {
			t.Errorf("process %d: %v", m.Number, err)
		}
	}
	f.nothingLeft(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, err := range f.broken {
		t.Error(err)
	}
	got := sum(f.sections, f.faults)
	got.rows = sqltest.Ask[int](t, f.admin, "SELECT count(*) FROM writes")
	got.counted = sqltest.Ask[int](t, f.admin, "SELECT sum(n)::bigint FROM counters")
	t.Logf("%d sections and %d faults", got.began, len(f.faults))
	return got
}

// everybodyWorks waits until every process has taken a few locks, when all is well
// again.
func (f *fleet) everybodyWorks(t *testing.T) {
	t.Helper()
	since := now()
	await.Until(t, "all processes to get their locks", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		done, failed := map[int]int{}, map[int]string{}
		for i := len(f.sections) - 1; i >= max(0, len(f.sections)-100_000); i-- {
			if s := f.sections[i]; s.OK && s.Asked > since {
				done[s.Process]++
			} else if s.Err != "" && failed[s.Process] == "" {
				failed[s.Process] = s.Err
			}
		}
		for _, m := range f.members {
			if done[m.Number] < 3 {
				return fmt.Errorf("process %d has had %d, and its last error was %s", m.Number, done[m.Number], failed[m.Number])
			}
		}
		return nil
	})
}

func (f *fleet) nothingLeft(t *testing.T) {
	t.Helper()
	await.True(t, "all locks and transactions to go", func() bool {
		return sqltest.Ask[int](t, f.admin, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")+
			sqltest.Ask[int](t, f.admin, "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+pgtest.WeakRole+"' AND state <> 'idle'") == 0
	})
}

// begin notes a fault, and what it returns its end.
func (f *fleet) begin(kind string, process int) (over func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.faults)
	f.faults = append(f.faults, fault{kind, process, now(), 1 << 62})
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.faults[n].to = now()
	}
}

// heard is what a process says of a section: that it begins, and what became of it.
func (f *fleet) heard(s section) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.Stale {
		select {
		case f.late <- struct{}{}:
		default:
		}
	}
	id := opened{s.Process, s.ID}
	if n, begun := f.open[id]; begun {
		delete(f.open, id)
		f.sections[n] = s
		return
	}
	if s.Left == 0 && s.Entered != 0 {
		f.open[id] = len(f.sections)
	}
	f.sections = append(f.sections, s)
}

// killed ends the sections of a process that was killed at the given time.
func (f *fleet) killed(process int, at int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, n := range f.open {
		if id.process == process {
			f.sections[n].Left = at
			delete(f.open, id)
		}
	}
}

// start starts the process of m.
func (f *fleet) start(m *member) {
	if err := m.start(f.heard); err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.broken = append(f.broken, err)
	}
}

func (m *member) start(heard func(s section)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	told, err := json.Marshal(m.job)
	if err != nil {
		return err
	}
	m.cmd = exec.Command(self, "-test.run=^$")
	m.cmd.Env = append(os.Environ(), envJob+"="+string(told), "GOMAXPROCS=2")
	m.cmd.Stderr = os.Stderr
	in, inErr := m.cmd.StdinPipe()
	out, outErr := m.cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, m.cmd.Start()); err != nil {
		return err
	}
	m.in = in
	m.ended = make(chan struct{})
	ended := m.ended
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var s section
			if json.Unmarshal(lines.Bytes(), &s) == nil {
				heard(s)
			}
		}
	}()
	return nil
}

func (m *member) signal(s syscall.Signal) { _ = m.cmd.Process.Signal(s) }

// end ends the process, by a signal or, with none, by the end of its input.
func (m *member) end(s syscall.Signal) error {
	if m.cmd == nil {
		return nil
	}
	_ = m.in.Close()
	if s != 0 {
		m.signal(s)
	}
	<-m.ended // the pipe must be read to its end first
	cmd := m.cmd
	m.cmd = nil
	return cmd.Wait()
}
