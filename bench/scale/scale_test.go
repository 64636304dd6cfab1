package scale

import (
	"testing"
	"time"
)

const ms = time.Millisecond

var costs = Costs{
	Connect: Cost{Client: ms, Server: 4 * ms}, Refused: Cost{Client: ms, Server: ms}, PoolerConnect: Cost{Client: ms, Pooler: ms / 5},
	Trip: Cost{Client: ms / 20, Pooler: ms / 20, Server: ms / 20}, Lease: Cost{Server: ms / 2}, Burst: Cost{Server: ms / 2}, Change: Cost{Server: ms / 10},
	Look: ms, LookEach: ms / 100,
}

func (w World) start(way string, n int) Row {
	return w.Simulate(costs, way, n, time.Second, time.Minute)
}

var (
	direct = World{Together: true, Cores: 2, Connections: 600}
	pooled = World{Together: true, Cores: 2, Connections: 600, Pooled: 4}
	scarce = World{Together: true, Cores: 2, Connections: 20}
)

// All are ready, one after the one that migrates, wherever there are connections.
func TestAllAreReady(t *testing.T) {
	t.Parallel()
	for _, way := range Ways() {
		row := direct.start(way, 50)
		if row.Ready != 50 || row.All < row.Winner || row.Winner < 1000 || row.Failed != 0 {
			t.Errorf("%s: got %+v", way, row)
		}
	}
}

// The model has what the issue is about: who blocks behind a pooler keeps the one that
// migrates from a connection, and the waiting room does not.
func TestPoolerOfFour(t *testing.T) {
	t.Parallel()
	if row := pooled.start(Blocking, 50); !row.Stuck || row.Ready != 0 || row.Most != 4 {
		t.Errorf("blocking: got %+v; want none ready", row)
	}
	for _, way := range []string{UpToDate, Serialize} {
		if row := pooled.start(way, 50); row.Ready != 50 || row.Most != 4 {
			t.Errorf("%s: got %+v; want all ready", way, row)
		}
	}
}

// A server whose first answer would come after the limit was busy all the time.
func TestNobodyIsConnected(t *testing.T) {
	t.Parallel()
	row := direct.Simulate(costs, UpToDate, 300, time.Second, ms)
	if row.Ready != 0 || !(row.Load > 0.9 && row.Load <= 1) { // as a NaN is not
		t.Errorf("got %+v; want nobody ready and a load of 1", row)
	}
}

// Who blocks fails where the server has too few connections, but for those who had one;
// of these one more needs one to migrate.
func TestFewConnections(t *testing.T) {
	t.Parallel()
	if row := scarce.start(Blocking, 60); row.Failed < 40 || row.Refused < 40 || row.Most != 20 {
		t.Errorf("blocking: got %+v; want 40 failed", row)
	}
	for _, way := range []string{UpToDate, Serialize} {
		if row := scarce.start(way, 60); row.Ready != 60 || row.Most > 20 || row.Refused == 0 {
			t.Errorf("%s: got %+v; want all ready", way, row)
		}
	}
}

func TestSameSimulation(t *testing.T) {
	t.Parallel()
	for _, way := range Ways() {
		if one, other := pooled.start(way, 30), pooled.start(way, 30); one != other {
			t.Errorf("%s: got %+v and then %+v", way, one, other)
		}
	}
}

// Three that want as much of one core are done together, and after as long as they would
// be one after the other.
func TestCoresAreShared(t *testing.T) {
	t.Parallel()
	c := newClock(1)
	cpu := c.addCores(1)
	var done []time.Duration
	for range 3 {
		c.spawn(func(p *party) {
			for range 100 { // what is random evens out
				p.use(cpu, 10*ms)
			}
			done = append(done, c.now)
		})
	}
	if !c.run(time.Minute) || len(done) != 3 {
		t.Fatalf("%d of 3 are done", len(done))
	}
	if done[0] < 2500*ms || done[2] < 2700*ms || done[2] > 3300*ms {
		t.Errorf("done after %v; want 3 s", done)
	}
	if used := time.Duration(cpu.used); used < done[2]-ms || used > done[2]+ms {
		t.Errorf("the core was busy for %v of %v", used, done[2])
	}
}

func TestRunEndsAtItsLimit(t *testing.T) {
	t.Parallel()
	c := newClock(1)
	woken := 0
	c.spawn(func(p *party) {
		for {
			p.sleep(time.Second)
			woken++
		}
	})
	if c.run(10*time.Second + ms) {
		t.Error("idle; want the limit")
	}
	if woken != 10 {
		t.Errorf("woken %d times; want 10", woken)
	}
}

// The lock's queue is PostgreSQL's: in the order of coming, sharers together, nobody
// past those in front, and a burst ends in vain.
func TestQueueOfALock(t *testing.T) {
	t.Parallel()
	c := newClock(1)
	s := &server{cpu: c.addCores(1), limit: 9, locks: map[string]*lock{}}
	var order []string
	come := func(name string, at, burst, keeps time.Duration, shared bool) {
		c.spawn(func(party *party) {
			p := &process{party: party, server: s}
			conn := &conn{session: &session{}}
			p.sleep(at)
			if !p.block(conn, s.lock("a"), request{shared: shared}, burst) {
				order = append(order, name+" in vain")
				return
			}
			order = append(order, name)
			p.sleep(keeps)
			p.unlock(conn)
		})
	}
	come("holder", 0, 0, 100*ms, false)
	come("brief", ms, 50*ms, 0, false)
	come("sharer", 2*ms, 0, 100*ms, true)
	come("other sharer", 3*ms, 0, 100*ms, true)
	come("alone", 4*ms, 0, ms, false)
	come("late sharer", 5*ms, 0, ms, true)
	c.run(time.Minute)
	want := []string{"holder", "brief in vain", "sharer", "other sharer", "alone", "late sharer"}
	if len(order) != len(want) {
		t.Fatalf("got %q; want %q", order, want)
	}
	for i := range want {
		if order[i] != want[i] {
			t.Fatalf("got %q; want %q", order, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	got, err := parseStat("4711 (a (b) c) S 4710 1 1 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 1 0 5\n")
	want := used{name: "a (b) c", parent: 4710, used: 230 * ms, children: 270 * ms}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, line := range []string{"", "1 (a", "1 (a) S 1", "1 (a) S x 1 1 0 -1 4194560 1 2 3 4 11 12 13 14"} {
		if _, err := parseStat(line); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}

func TestMeasurement(t *testing.T) {
	t.Parallel()
	c := Cost{Client: 10, Server: 5}.less(Cost{Client: 4, Server: 6}).by(2)
	if c != (Cost{Client: 3}) {
		t.Errorf("got %+v", c)
	}
}
