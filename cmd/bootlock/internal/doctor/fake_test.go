package doctor_test

import (
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/doctor"
)

// CockroachDB had pg_try_advisory_xact_lock that was always true and took no
// lock; YugabyteDB says so in a notice that can be silenced. Every call succeeds,
// and two processes migrate at once.
func TestServerThatDoesNotLock(t *testing.T) {
	for name, locks := range map[string]*fakeLocks{
		"answers without locking": nil,
		"control: locks":          {},
	} {
		t.Run(name, func(t *testing.T) {
			for _, driver := range []struct{ name, params string }{
				{"postgres", "sslmode=disable"},
				{"pgx", "sslmode=disable&default_query_exec_mode=simple_protocol"},
			} {
				t.Run(driver.name, func(t *testing.T) {
					t.Parallel()
					fake := &fakeServer{locks: locks}
					report := examine(t, driver.name, fake.listen(t)+"?"+driver.params)
					want, level := true, doctor.OK
					if locks == nil {
						want, level = false, doctor.Fail
					}
					if report.Protects != want {
						t.Errorf("got Protects %v; want %v", report.Protects, want)
					}
					for _, name := range []string{"exclusive lock", "shared lock", "wait"} {
						if f := find(t, report, name); f.Level != level {
							t.Errorf("got %s %q; want %s", f.Level, f.Name, level)
						}
					}
					// The fake takes the setting and does nothing about it.
					if locks != nil && find(t, report, "dead holder").Level != doctor.Warn {
						t.Error("got no warning; want one, the fake does not end a silent holder")
					}
					if f := find(t, report, "server"); f.Level != doctor.Warn {
						t.Errorf("got server %s; want a warning, it is not PostgreSQL", f.Level)
					}
				})
			}
		})
	}
}

// A server, or a pooler, that keeps sharers apart is not one to rely on either.
func TestServerThatKeepsSharersApart(t *testing.T) {
	fake := &fakeServer{locks: &fakeLocks{apart: true}}
	report := examine(t, "postgres", fake.listen(t)+"?sslmode=disable")
	if f := find(t, report, "shared lock"); report.Protects || f.Level != doctor.Fail {
		t.Errorf("got Protects %v, %+v; want a failure", report.Protects, f)
	}
	if f := find(t, report, "exclusive lock"); f.Level != doctor.OK {
		t.Errorf("got %+v; want ok", f)
	}
}

// The setting that tells a pooler from a session must not stay on a session that
// others get after us.
func TestLeavesNoSetting(t *testing.T) {
	fake := &fakeServer{locks: &fakeLocks{}}
	examine(t, "postgres", fake.listen(t)+"?sslmode=disable")
	fake.mu.Lock()
	defer fake.mu.Unlock()
	if fake.set == 0 {
		t.Fatal("no setting was made; this test proves nothing")
	}
	if fake.set != fake.unset {
		t.Errorf("got the setting made %d times and taken back %d times", fake.set, fake.unset)
	}
}

// fakeServer speaks the simple protocol of PostgreSQL and knows little else.
type fakeServer struct {
	locks *fakeLocks // nil: answers the lock functions without locking

	mu         sync.Mutex
	set, unset int // how often the doctor's setting was made, and taken back
}

func (s *fakeServer) count(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case name != "bootlock.doctor":
	case value == "":
		s.unset++
	default:
		s.set++
	}
}

func (s *fakeServer) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for pid := uint32(1); ; pid++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn, pid)
		}
	}()
	return (&url.URL{Scheme: "postgres", User: url.User("u"), Host: l.Addr().String(), Path: "/d"}).String()
}

func (s *fakeServer) serve(conn net.Conn, pid uint32) {
	defer func() { _ = conn.Close() }()
	c := &fakeConn{server: s, pid: pid, status: 'I', settings: map[string]string{}}
	defer s.locks.release(c)
	c.Backend = pgproto3.NewBackend(conn, conn)
	for {
		startup, err := c.ReceiveStartupMessage()
		if err != nil {
			return
		}
		if _, ok := startup.(*pgproto3.StartupMessage); ok {
			break
		}
		if _, err := conn.Write([]byte("N")); err != nil { // no TLS; and no way to cancel
			return
		}
	}
	c.Send(&pgproto3.AuthenticationOk{})
	c.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	c.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	c.Send(&pgproto3.BackendKeyData{ProcessID: pid, SecretKey: []byte{0, 0, 0, 1}})
	c.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for c.Flush() == nil {
		msg, err := c.Receive()
		if err != nil {
			return
		}
		switch msg := msg.(type) {
		case *pgproto3.Query:
			for _, statement := range statements(msg.String) {
				c.run(strings.TrimSpace(statement))
			}
			c.Send(&pgproto3.ReadyForQuery{TxStatus: c.status})
		case *pgproto3.Terminate:
			return
		default:
			c.fail("0A000", "only the simple protocol")
			c.Send(&pgproto3.ReadyForQuery{TxStatus: c.status})
		}
	}
}

type fakeConn struct {
	*pgproto3.Backend
	server   *fakeServer
	pid      uint32
	status   byte
	settings map[string]string
}

// statements splits a text; that with a DO block is one to the fake.
func statements(text string) []string {
	if strings.Contains(text, "DO $") {
		return []string{text}
	}
	return strings.Split(text, ";")
}

var (
	// aLock is the lock of a statement that says by its number of rows whether it
	// was granted: one, or none if somebody else has it. After a DO block it waits.
	aLock    = regexp.MustCompile(`pg_(?:try_)?advisory_xact_lock(_shared)?\((-?\d+)\)`)
	lockCall = regexp.MustCompile(`pg_(try_)?advisory_xact_lock(_shared)?\((.*)\)$`)
	bareKey  = strings.NewReplacer("(", "", ")::pg_catalog.int8", "")
	setLocal = regexp.MustCompile(`^SET LOCAL (\S+) = '(.*)'$`)
	setThis  = regexp.MustCompile(`set_config\('(\S+)', '(.*)', false\)`)
	compare  = regexp.MustCompile(`WHERE pg_catalog.current_setting\('(\S+)'\) OPERATOR\(pg_catalog\.=\) '(.*)'$`)
	current  = regexp.MustCompile(`current_setting\('(\S+)'`)
)

func (c *fakeConn) run(statement string) {
	switch {
	case statement == "":
	case strings.HasPrefix(statement, "BEGIN"), strings.HasPrefix(statement, "begin"):
		c.status = 'T'
		c.done("BEGIN")
	case statement == "COMMIT", statement == "commit", statement == "ROLLBACK", statement == "rollback":
		c.status = 'I'
		c.server.locks.release(c)
		delete(c.settings, "idle_in_transaction_session_timeout")
		c.done(strings.ToUpper(statement))
	case strings.Contains(statement, "generate_series") && aLock.MatchString(statement):
		m := aLock.FindStringSubmatch(statement)
		if c.server.locks.take(c, m[2], m[1] != "", !strings.Contains(statement, "DO $")) {
			c.done("SELECT 1")
		} else {
			c.done("SELECT 0")
		}
	case lockCall.MatchString(statement):
		m := lockCall.FindStringSubmatch(statement)
		if c.server.locks.take(c, bareKey.Replace(m[3]), m[2] != "", m[1] != "") {
			c.done("SELECT 1")
		} else {
			c.done("SELECT 0")
		}
	case setLocal.MatchString(statement):
		m := setLocal.FindStringSubmatch(statement)
		c.settings[m[1]] = m[2]
		c.done("SET")
	case strings.HasPrefix(statement, "SET "):
		c.done("SET")
	case setThis.MatchString(statement):
		m := setThis.FindStringSubmatch(statement)
		c.server.count(m[1], m[2])
		c.settings[m[1]] = m[2]
		c.done("SELECT 1")
	case compare.MatchString(statement):
		if m := compare.FindStringSubmatch(statement); c.settings[m[1]] == m[2] {
			c.done("SELECT 1")
		} else {
			c.done("SELECT 0")
		}
	case strings.Contains(statement, "FROM pg_catalog.pg_locks"):
		if c.server.locks.waiting() {
			c.done("SELECT 1")
		} else {
			c.done("SELECT 0")
		}
	case strings.Contains(statement, "pg_catalog.version()"):
		c.answer("CockroachDB CCL v22.1.0")
	case strings.Contains(statement, "pg_backend_pid"):
		c.answer(string(rune('0' + c.pid%64)))
	case strings.Contains(statement, "pg_is_in_recovery"):
		c.answer("false")
	case strings.Contains(statement, "pg_stat_activity"):
		c.fail("42P01", "the fake has no pg_stat_activity")
	case current.MatchString(statement):
		c.answer(c.settings[current.FindStringSubmatch(statement)[1]])
	case strings.HasSuffix(statement, "SELECT '1'"):
		c.answer("1")
	default:
		c.fail("42883", "the fake does not know: "+statement)
	}
}

func (c *fakeConn) done(tag string) { c.Send(&pgproto3.CommandComplete{CommandTag: []byte(tag)}) }

func (c *fakeConn) answer(text string) {
	const oidText = 25
	c.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("answer"), DataTypeOID: oidText, DataTypeSize: -1, TypeModifier: -1}}})
	c.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(text)}})
	c.done("SELECT 1")
}

func (c *fakeConn) fail(code, message string) {
	if c.status == 'T' {
		c.status = 'E'
	}
	c.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: code, Message: message})
}

// fakeLocks really locks, for the control group. A nil one does not.
type fakeLocks struct {
	apart   bool // sharers keep each other out
	mu      sync.Mutex
	changed chan struct{}                 // closed, and made anew, when a lock becomes free
	held    map[string]map[*fakeConn]bool // key, holder: shared
	waiters int
}

// take reports whether c got the lock; without try it waits for it.
func (l *fakeLocks) take(c *fakeConn, key string, shared, try bool) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.free(key, shared) {
		if try {
			return false
		}
		l.waiters++
		changed := l.changed
		l.mu.Unlock()
		<-changed
		l.mu.Lock()
		l.waiters--
	}
	l.held[key][c] = shared
	return true
}

func (l *fakeLocks) free(key string, shared bool) bool {
	if l.held == nil {
		l.held, l.changed = map[string]map[*fakeConn]bool{}, make(chan struct{})
	}
	if l.held[key] == nil {
		l.held[key] = map[*fakeConn]bool{}
	}
	for _, other := range l.held[key] {
		if !shared || !other || l.apart {
			return false
		}
	}
	return true
}

func (l *fakeLocks) release(c *fakeConn) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		return
	}
	for _, holders := range l.held {
		delete(holders, c)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *fakeLocks) waiting() bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiters > 0
}
