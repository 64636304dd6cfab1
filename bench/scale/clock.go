package scale

import (
	"container/heap"
	"iter"
	"math"
	"math/rand/v2"
	"time"
)

// clock is virtual time, and what is to happen in it. What happens at the same moment
// happens in the order in which it was asked for, so that a simulation with the same
// seed is the same simulation.
type clock struct {
	now    time.Duration
	events queue[*event]
	cores  []*cores
	seq    int
	random *rand.Rand
	all    []*party
}

func newClock(seed uint64) *clock { return &clock{random: rand.New(rand.NewPCG(seed, seed))} } //nolint:gosec // not a secret

// event wakes a party at a moment.
type event struct {
	at    time.Duration
	seq   int
	party *party
	off   bool // it is not to happen any more
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// party is somebody who lives in this time: a function that waits now and then.
type party struct {
	*clock
	resume func() (struct{}, bool)
	yield  func(struct{}) bool
	stop   func()
}

// over ends the parties that are still waiting when the simulation ends.
type over struct{}

// spawn has a party begin now.
func (c *clock) spawn(live func(p *party)) {
	p := &party{clock: c}
	p.resume, p.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil && r != (over{}) {
				panic(r)
			}
		}()
		p.yield = yield
		live(p)
	})
	c.all = append(c.all, p)
	c.wake(p, 0)
}

// run lets time pass until nothing is left to happen, which it reports, or until the
// limit.
func (c *clock) run(limit time.Duration) (idle bool) {
	for {
		at, busy := time.Duration(math.MaxInt64), (*cores)(nil)
		for _, cpu := range c.cores {
			if next, ok := cpu.next(); ok && next < at {
				at, busy = next, cpu
			}
		}
		if len(c.events) > 0 && c.events[0].at <= at {
			at, busy = c.events[0].at, nil
		}
		if idle = at == math.MaxInt64; idle || at > limit {
			break
		}
		c.now = max(c.now, at)
		if busy != nil {
			busy.finish().resume()
			continue
		}
		if e := heap.Pop(&c.events).(*event); !e.off {
			e.party.resume()
		}
	}
	if !idle { // the time up to the limit has passed too, perhaps without anything done in it
		c.now = max(c.now, limit)
	}
	for _, cpu := range c.cores {
		cpu.pass()
	}
	for _, p := range c.all {
		p.stop()
	}
	return idle
}

// wake has a party go on after d.
func (c *clock) wake(p *party, d time.Duration) *event {
	c.seq++
	e := &event{at: c.now + d, seq: c.seq, party: p}
	heap.Push(&c.events, e)
	return e
}

// chance is a random time, less than d.
func (c *clock) chance(d time.Duration) time.Duration {
	return time.Duration(c.random.Int64N(int64(d)))
}

// park waits until something wakes p.
func (p *party) park() {
	if !p.yield(struct{}{}) {
		panic(over{})
	}
}

func (p *party) sleep(d time.Duration) {
	p.wake(p, d)
	p.park()
}

// cores are CPUs that share what they do evenly among all that have something to do,
// as an operating system does.
type cores struct {
	clock *clock
	n     float64
	since time.Duration
	had   float64 // what each that was there all the time has had, in nanoseconds
	jobs  queue[*job]
	used  float64 // of all cores together, in nanoseconds
}

type job struct {
	until float64 // had is so much
	seq   int
	party *party
}

func (j *job) before(o *job) bool { return j.until < o.until || j.until == o.until && j.seq < o.seq }

func (c *clock) addCores(n int) *cores {
	cpu := &cores{clock: c, n: float64(n)}
	c.cores = append(c.cores, cpu)
	return cpu
}

func (c *cores) pass() {
	if n := float64(len(c.jobs)); n > 0 {
		d := float64(c.clock.now - c.since)
		c.had += d * min(1, c.n/n)
		c.used += d * min(n, c.n)
	}
	c.since = c.clock.now
}

// next is when the first of the jobs is done, unless others come.
func (c *cores) next() (time.Duration, bool) {
	if len(c.jobs) == 0 {
		return 0, false
	}
	n := float64(len(c.jobs))
	return c.since + time.Duration(math.Ceil((c.jobs[0].until-c.had)/min(1, c.n/n))), true
}

func (c *cores) finish() *party {
	c.pass()
	return heap.Pop(&c.jobs).(*job).party
}

// use waits until p has had some d of these cores, half of it random: parties that do
// the same at the same moment would otherwise stay in step for ever.
func (p *party) use(c *cores, d time.Duration) {
	if d < 2 {
		return
	}
	d += p.chance(d) - d/2
	c.pass()
	p.seq++
	heap.Push(&c.jobs, &job{until: c.had + float64(d), seq: p.seq, party: p})
	p.park()
}

// queue is a heap of what comes one before the other.
type queue[T interface{ before(o T) bool }] []T

func (q queue[T]) Len() int           { return len(q) }
func (q queue[T]) Less(i, j int) bool { return q[i].before(q[j]) }
func (q queue[T]) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue[T]) Push(x any)        { *q = append(*q, x.(T)) }

func (q *queue[T]) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	var none T
	(*q)[last] = none
	*q = (*q)[:last]
	return x
}
