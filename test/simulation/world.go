package simulation

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bootlock/bootlock/internal/recdriver"
	"github.com/bootlock/bootlock/test/history"
)

const (
	stormy  = 8 * time.Second  // how long there are faults
	settled = 10 * time.Minute // by when everybody must have had their turn
)

// world is one schedule.
type world struct {
	Config
	rng    *rand.Rand // of the plan; the faults have their own
	server *recdriver.Server
	procs  []*process
	began  time.Time
	calm   chan struct{} // closed when the faults are over
	rate   float64       // of faults among driver calls
	log    *history.Log
	pooler chan struct{} // a place for each of its connections; nil without one

	narrow   bool         // the pooler has fewer of them than there are locks
	migrates map[row]bool // that somebody migrates until it succeeds
	record
}

// process is one member of the fleet, with a pool of its own.
type process struct {
	w      *world
	number int
	driver *recdriver.Driver
	db     *sql.DB
	calls  atomic.Uint64

	mu      sync.Mutex
	cut     time.Time               // until when its network is silent
	refused time.Time               // until when it gets no connection
	begun   map[int]context.Context // of the transaction on each connection
	pooled  map[int]bool            // connections that have a place in the pooler
}

// Run runs one schedule, in a bubble of testing/synctest.
func Run(cfg Config) Result {
	w := &world{
		Config: cfg,
		rng:    rand.New(rand.NewPCG(cfg.Seed, 1)), //nolint:gosec // it must be repeatable
		server: recdriver.NewServer(),
		began:  time.Now(),
		calm:   make(chan struct{}),
		log:    history.New(),

		migrates: map[row]bool{},
	}
	w.init(w)
	w.server.OnCommit(w.committed)
	w.rate = []float64{0, 0.01, 0.03, 0.08}[w.rng.IntN(4)]
	if cfg.Control == LateGrant {
		w.rate = 0.2 // it takes a fault in one call of a few
	}
	n := 2 + w.rng.IntN(4)
	if w.rng.IntN(4) == 0 {
		w.pooler = make(chan struct{}, 4+w.rng.IntN(2)) // three locks, and one to work with
		w.server.SetPooled(true)
		if w.narrow = w.rng.IntN(3) == 0 && w.Control != LooseRow; w.narrow {
			w.pooler = make(chan struct{}, 2)
		}
	}
	w.server.SetPlain(w.rng.IntN(8) == 0)
	w.server.SetShort(w.rng.IntN(8) == 0)
	if cfg.Small {
		n, w.pooler, w.narrow = 3, nil, false
		w.server.SetPooled(false)
	}
	for i := range n {
		w.procs = append(w.procs, w.start(i))
	}

	tasks := make([][]task, n)
	for i, p := range w.procs {
		tasks[i] = p.plan()
	}
	var all sync.WaitGroup
	for i, p := range w.procs {
		all.Go(func() { p.work(tasks[i]) })
	}
	all.Go(w.storm)
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(settled):
		w.violated("somebody still waits %v after the faults were over: held %v, waited for %v", settled-stormy, w.server.Held(), w.server.Waiting())
		panic(fmt.Sprint(w.result.Violations))
	}
	time.Sleep(time.Minute) // for what was left behind by faults
	w.nothingLeft()
	w.result.History = w.log.Ops()
	return w.result
}

func (w *world) start(i int) *process {
	p := &process{w: w, number: i, begun: map[int]context.Context{}, pooled: map[int]bool{}}
	p.driver = w.server.Driver(recdriver.Mode(w.rng.IntN(3)))
	p.driver.Forget()
	p.driver.OnCall(p.meet)
	p.driver.OnExec(w.answer)
	p.db = p.driver.OpenDB()
	p.db.SetMaxOpenConns([]int{0, 3, 4, 6}[w.rng.IntN(4)])
	return p
}

// storm is what happens to all at once, or to a process as a whole.
func (w *world) storm() {
	defer func() {
		for _, p := range w.procs {
			p.mu.Lock()
			p.cut, p.refused = time.Time{}, time.Time{}
			p.mu.Unlock()
		}
		w.server.SetStandby(false)
		close(w.calm)
	}()
	if w.rate == 0 {
		return
	}
	for time.Since(w.began) < stormy {
		time.Sleep(time.Duration(1 + w.rng.Int64N(int64(2*time.Second))))
		w.count()
		p := w.procs[w.rng.IntN(len(w.procs))]
		d := time.Duration(w.rng.Int64N(int64(3 * time.Second)))
		switch w.rng.IntN(7) {
		case 0: // pg_terminate_backend of a holder
			key := w.keyOf(w.rng)
			w.killed(nil)
			w.server.Kill(int64(key))
		case 1: // a restart
			for _, p := range w.procs { // one after the other: others get their locks meanwhile
				w.killed(p)
				p.refuse(d)
				p.driver.KillAll()
			}
		case 2: // its network falls silent
			p.mu.Lock()
			p.cut = time.Now().Add(d)
			p.mu.Unlock()
		case 3: // its network is reset
			w.killed(p)
			p.driver.KillAll()
		case 4: // the server is full
			for _, p := range w.procs {
				p.refuse(d)
			}
		case 5: // connections lead to a standby for a while
			w.server.SetStandby(true)
			time.Sleep(d)
			w.server.SetStandby(false)
		case 6: // a spell of calm
		}
	}
}

func (p *process) refuse(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = time.Now().Add(d)
}

// nothingLeft checks what everybody leaves behind.
func (w *world) nothingLeft() {
	if held, waiting := w.server.Held(), w.server.Waiting(); len(held)+len(waiting) > 0 {
		w.violated("left on the server: held %v, waited for %v", held, waiting)
	}
	for _, p := range w.procs {
		if n := p.db.Stats().InUse; n > 0 {
			w.violated("%d connections of process %d never came back to the pool", n, p.number)
		}
		_ = p.db.Close()
	}
	time.Sleep(time.Second)
	for _, p := range w.procs {
		if n := p.driver.Open(); n > 0 {
			w.violated("%d connections of process %d are open after its pool was closed", n, p.number)
		}
	}
}
