package scale

import (
	"time"

	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/internal/room"
)

// Ways to start. Those that are not bootlock's look under the lock whether there is
// something to do, and then migrate, as each does under Serialize.
const (
	UpToDate  = storm.UpToDate
	Serialize = storm.Serialize
	Bursts    = "bursts of a second, one after the other"
	Polling   = "polling every 100 ms"
	Blocking  = "blocking"
)

// Ways returns all of them.
func Ways() []string { return []string{UpToDate, Serialize, Bursts, Polling, Blocking} }

// WayOf is the model of a way that the storm has measured, if there is one. A lock of a
// session is worth nothing behind a pooler.
func WayOf(measured string, pooled bool) (way string, ok bool) {
	switch measured {
	case storm.UpToDate:
		return UpToDate, true
	case storm.Serialize:
		return Serialize, true
	case peers.ByHand:
		return Blocking, true
	case peers.Blocking:
		return Blocking, !pooled
	case peers.Polling:
		return Polling, !pooled
	}
	return "", false
}

// statements is how many a migration has.
const statements = 20

// start is what each process does; false, if it gives up.
func (p *process) start(way string, work time.Duration) bool {
	defer p.closeAll()
	switch way {
	case UpToDate:
		return p.startOnce(work)
	case Serialize:
		p.createSchema()
		c := p.acquire("migrate", false, true, false)
		p.migrateAlone(work)
		p.end(c)
		p.giveBack(c)
		return true
	}
	return p.startByHand(way, work)
}

func (p *process) startOnce(work time.Duration) bool {
	if p.upToDate(room.Start()) {
		return true
	}
	p.createSchema()
	if c := p.acquire("migrate", false, true, true); c != nil {
		if !p.upToDate(room.Lead()) {
			p.migrateAlone(work)
		}
		p.end(c)
		p.giveBack(c)
		return true
	}
	c := p.acquire("migrate", true, false, false)
	p.end(c)
	p.giveBack(c)
	return p.upToDate(room.Start())
}

func (p *process) createSchema() {
	c := p.acquire("schema", false, false, false)
	p.trip()
	p.end(c)
	p.giveBack(c)
}

// patiently opens a connection, at that pace, however long that takes.
func (p *process) patiently(pace room.Pace) *conn {
	w := &wait{process: p, began: p.now, pace: pace}
	for w.c == nil {
		w.reopen()
	}
	return w.c
}

// upToDate asks on a connection of the pool.
func (p *process) upToDate(pace room.Pace) bool {
	c := p.patiently(pace)
	p.alone(c, p.costs.Trip)
	p.giveBack(c)
	return p.migrated
}

func (p *process) migrateAlone(work time.Duration) {
	c := p.patiently(room.Lead())
	p.migrate(c, work)
	p.giveBack(c)
}

// migrate looks, and migrates if nobody has.
func (p *process) migrate(c *conn, work time.Duration) {
	p.alone(c, p.costs.Trip)
	if p.migrated {
		return
	}
	for range statements {
		p.take(c)
		p.do(p.costs.Change)
		p.sleep(work / statements)
		c.session.transactions++
		p.leave(c)
	}
	p.migrated, p.winner = true, p.party
}

// startByHand does the same under a lock without a waiting room. Who blocks gives up if
// there is no connection; the others ask for one again.
func (p *process) startByHand(way string, work time.Duration) bool {
	again := func() bool {
		p.sleep(100 * time.Millisecond)
		return way != Blocking
	}
	open := func() *conn {
		for {
			c, ok := p.connect()
			if ok || !again() {
				return c
			}
		}
	}
	c := open()
	if c == nil {
		return false
	}
	l := p.lock("migrate")
	for {
		p.begin(c)
		p.trip()
		if p.blocks(c, l, way) {
			break
		}
		p.end(c)
		if way == Polling {
			p.sleep(100 * time.Millisecond)
		}
	}
	other := open()
	if other != nil {
		p.migrate(other, work)
		p.giveBack(other)
	}
	p.end(c)
	p.giveBack(c)
	return other != nil
}

func (p *process) blocks(c *conn, l *lock, way string) bool {
	switch way {
	case Polling:
		return p.try(c, l, false)
	case Bursts:
		return p.block(c, l, request{began: p.now}, room.Burst)
	}
	return p.block(c, l, request{began: p.now}, 0)
}
