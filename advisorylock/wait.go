package advisorylock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/mocked"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/waiting"
)

// A waiter queues where that keeps nothing from the holder, and polls everywhere
// else: see "Waiting" in docs/how-it-works.md.

// forWork is how long the holder of a lease waits for a connection for its work.
const forWork = time.Second

// quick is how long a poll takes at most after which a process tries that was starved of
// connections before.
const quick = 25 * time.Millisecond

var (
	errLate    = errors.New("the lock was granted, but the answer came after its lease had run out")
	errStarved = errors.New("the lock was free, but there is no connection for the work")
	errStandby = fmt.Errorf("%w: this server is a standby, and a lock on it excludes no session of the primary: connect to the primary (target_session_attrs=primary)", ErrUnsupported)
)

// wait is the state of one wait.
type wait struct {
	polls  bool // it may not stand in the server's queue
	plain  bool // it can neither use plpgsql nor count connections
	short  bool // connections are: it keeps none between two attempts
	lasted bool // somebody had the lock, or there was no connection
	done   bool // there is nothing left to do

	starved bool          // it had the lock, but no connection for its work
	quick   time.Duration // if starved, a poll that takes longer is not followed by an attempt

	older     time.Duration // counted as part of the wait, see [acquisition.yield]
	contended time.Time     // when another process was last seen to want the lock, or zero
}

// attempt is the result of one attempt.
type attempt struct {
	answer answer
	err    error
	over   bool          // the wait is over, with err
	queued bool          // it was made in the server's queue
	took   time.Duration // and so long
	waited time.Duration // since the wait began
}

// next is what a waiter does after an attempt: it may be over, or else it pauses,
// with or without a connection.
type next struct {
	over  bool
	leave bool // close the connection
	pause time.Duration
}

// after decides what a waiter does after an attempt. All decisions about waiting are
// made here.
func (w wait) after(a attempt) (wait, next) {
	switch {
	case w.over(a):
		return w, next{over: true}
	case forbidden(a.err):
		w.plain, w.polls = true, true
		return w, next{leave: true} // at once, by plainer statements
	}
	w.lasted = true
	starved, refused := errors.Is(a.err, errStarved), waiting.Short(a.err)
	if starved && a.answer == granted {
		w.starved, w.quick = true, quick
	}
	w.short = starved || refused || a.answer == short
	if a.queued && a.err == nil && a.took >= burst {
		return w, next{} // it has stood in the queue, and does so again
	}
	return w, next{leave: w.short || a.err != nil, pause: waiting.Next(a.waited+w.older, a.took, w.short)}
}

func (w wait) over(a attempt) bool {
	switch {
	case a.over:
		return true
	case a.err == nil:
		return a.answer == granted
	case forbidden(a.err):
		return w.plain
	}
	return !passes(a.err)
}

// passes reports whether err is the end of one attempt and not of the wait.
func passes(err error) bool {
	switch sqlstate.Of(err) {
	case "55P03", "57014": // lock_timeout; statement_timeout, pg_cancel_backend: meant for the user's statements
		return true
	}
	return waiting.Passes(err) || errors.Is(err, errStarved) || errors.Is(err, errLate) || errors.Is(err, errStandby)
}

// forbidden reports whether err says that the role may not use plpgsql, or has
// none, or may not read what is counted. There are statements that do without.
func forbidden(err error) bool {
	code := sqlstate.Of(err)
	return code == "42501" || code == "42704"
}

// refused pauses if err says that there is no connection, and reports whether to try
// again.
func (w *wait) refused(ctx context.Context, r *waiting.Report, err error, took func() time.Duration) bool {
	if err == nil || !waiting.Short(err) {
		return false
	}
	r.Because(err)
	var n next
	*w, n = w.after(attempt{err: err, took: took(), waited: r.Waited()})
	return waiting.Pause(ctx, n.pause)
}

// lock takes the lock, in the transaction that is open if that does it.
func (a *acquisition) lock(ctx context.Context) error {
	took := a.report.Since()
	made := a.heard(ctx, a.first)
	for {
		made.took, made.waited = took(), a.report.Waited()
		if ctx.Err() != nil && (made.err != nil || made.answer != granted && !made.over) {
			return a.ended(ctx, made.err)
		}
		if a.Try {
			return tried(made)
		}
		var n next
		a.wait, n = a.wait.after(made)
		if n.over {
			return made.err
		}
		a.report.Because(made.err)
		a.letGo(ctx, n.leave)
		if n.pause > 0 && !waiting.Pause(ctx, n.pause) {
			return a.ended(ctx, made.err)
		}
		took = a.report.Since()
		made = a.again(ctx)
	}
}

// ended is the end of ctx, with what kept the waiter from the lock if that was not
// somebody else.
func (a *acquisition) ended(ctx context.Context, err error) error {
	a.wait.lasted = true
	return bounded.Ended(ctx, cmp.Or(err, ctx.Err()))
}

func tried(made attempt) error {
	switch {
	case errors.Is(made.err, errLate):
		return withErrLost(made.err)
	case made.err == nil && made.answer != granted:
		return ErrNotAcquired
	}
	return made.err
}

// letGo gives the connection back between two attempts.
func (a *acquisition) letGo(ctx context.Context, leave bool) {
	if a.conn == nil {
		return
	}
	_ = a.conn.Rollback(ctx)
	if leave {
		a.conn.Distrust()
	}
	_ = a.giveBack(ctx)
}

// first tries to take the lock in the open transaction, with the statement that is
// cheapest if the lock is free.
func (a *acquisition) first(ctx context.Context) attempt {
	made := a.takeBy(ctx, a.sql.take(true))
	if a.Try && a.sql.lease && made.err == nil && made.answer == taken && !a.isMock() {
		made = a.take(ctx)
	}
	made.over = errors.Is(made.err, errStandby) // later, a waiter may be led to one for a while
	if a.Try || a.wait.polls || made.err != nil || made.answer != taken {
		return made
	}
	return a.queue(ctx)
}

// again makes one more attempt.
func (a *acquisition) again(ctx context.Context) attempt {
	if a.mustPoll() {
		took := a.report.Since()
		made := a.heard(ctx, a.poll)
		if made.err != nil || made.answer != granted {
			return made
		}
		if a.wait.starved && a.wait.slow(took()) {
			return attempt{answer: short, err: errStarved}
		}
		if a.Done != nil {
			a.letGo(ctx, false) // the question may need it
			done, err := a.Done(ctx)
			if a.wait.done = done; done || err != nil {
				return attempt{err: err, over: done || !waiting.Passes(err)}
			}
		}
	}
	return a.heard(ctx, a.retake)
}

// slow reports whether a poll took so long that others must be waiting for a connection,
// whose work an attempt would hold up for a second. On a slow machine all polls are slow,
// so the limit doubles each time.
func (w *wait) slow(took time.Duration) bool {
	if took <= w.quick {
		return false
	}
	w.quick *= 2
	return true
}

// heard is [waiting.Heard] for an attempt.
func (a *acquisition) heard(ctx context.Context, try func(ctx context.Context) attempt) (made attempt) {
	err := waiting.Heard(ctx, func(ctx context.Context) error {
		made = try(ctx)
		return made.err
	})
	if errors.Is(err, waiting.ErrSilent) {
		return attempt{err: err}
	}
	return made
}

// poll asks whether the lock is free. Connections are counted once the wait has
// lasted: most are over sooner.
func (a *acquisition) poll(ctx context.Context) attempt {
	if err := a.open(ctx); err != nil {
		return attempt{err: err}
	}
	return a.exec(ctx, a.sql.free(!a.wait.plain && a.report.Waited() >= uncounted))
}

const uncounted = 300 * time.Millisecond

// retake begins a new transaction, which has no snapshot of the last one, and takes
// the lock in it.
func (a *acquisition) retake(ctx context.Context) attempt {
	if a.conn == nil {
		if err := a.open(ctx); err != nil {
			return attempt{err: err}
		}
	}
	if err := a.begin(ctx); err != nil {
		return attempt{err: err}
	}
	if a.mustPoll() {
		return a.take(ctx)
	}
	return a.queue(ctx)
}

// mustPoll reports whether the waiter may not stand in the server's queue, for now or
// for good.
func (a *acquisition) mustPoll() bool { return a.wait.polls || a.sql.lease && a.wait.short }

// queue stands in the server's queue for a burst.
func (a *acquisition) queue(ctx context.Context) attempt {
	if a.sql.lease {
		return a.queueForLease(ctx)
	}
	made := a.takeBy(ctx, a.sql.queue())
	made.queued = true
	return made
}

// queueForLease is queue for a lease, which is not granted in the queue, but can be
// taken then. A waiter whose connection is not its own polls from now on.
func (a *acquisition) queueForLease(ctx context.Context) attempt {
	pid := a.conn.ServerPID()
	made := attempt{answer: taken}
	if pid != 0 {
		made = a.exec(ctx, mayQueue(pid))
	}
	if made.err != nil || made.answer != granted {
		a.wait.polls = a.wait.polls || made.err == nil && made.answer == taken
		return made
	}
	began := time.Now()
	made = a.exec(ctx, a.sql.queue())
	if made.err == nil {
		made = a.take(ctx)
	}
	// The lock is there, but something is left of the last holder: its session may be
	// about to end. Nobody else can begin either, so it keeps its place.
	for made.err == nil && made.answer == taken && time.Since(began) < burst {
		if !waiting.Pause(ctx, waiting.Next(time.Since(began), 0, false)) {
			return attempt{err: ctx.Err()}
		}
		made = a.take(ctx)
	}
	made.queued = true
	return made
}

// take takes the lock if it is free.
func (a *acquisition) take(ctx context.Context) attempt {
	return a.takeBy(ctx, a.sql.take(false))
}

// takeBy sends a statement that may grant the lock. One that is granted later than it
// lasts is not granted.
func (a *acquisition) takeBy(ctx context.Context, statement string) attempt {
	a.asked = time.Now()
	made := a.exec(ctx, statement)
	if made.err != nil || made.answer != granted {
		return made
	}
	if a.sql.lease && a.Work != nil && !a.Try && !a.isMock() {
		made.err = a.makeSure(ctx)
	}
	if made.err == nil && a.late() {
		made.err = errLate
	}
	return made
}

// late reports whether a lease may have run out since it was taken.
func (a *acquisition) late() bool {
	return a.sql.ttl > 0 && time.Since(a.asked) >= keeps(a.sql.ttl)
}

// exec sends a statement and returns what it answered.
func (a *acquisition) exec(ctx context.Context, statement string) attempt {
	n, err := a.conn.Exec(ctx, statement)
	switch {
	case err != nil:
		return attempt{err: err}
	case ctx.Err() != nil:
		a.conn.Distrust()
		return attempt{err: ctx.Err()}
	case a.conn.Mock() && (n > 0 || !a.Try): // it says what it was told by hand
		return attempt{answer: granted}
	case answer(n) == standby:
		return attempt{err: errStandby}
	}
	return attempt{answer: answer(n)}
}

// isMock reports whether the connection is to a mock, which answers what it was told
// to expect, and nothing else.
func (a *acquisition) isMock() bool { return a.conn.Mock() || mocked.Is(a.DB) }

// makeSure runs a statement to make sure that there is a connection for the work under
// the lock. That a pooler accepts one more client proves nothing.
func (a *acquisition) makeSure(ctx context.Context) error {
	bound, cancel := context.WithTimeout(ctx, min(forWork, a.sql.ttl/3))
	defer cancel()
	end, _ := bound.Deadline()   // a dialer may notice it before bound does
	a.report.Because(errStarved) // if a report is due meanwhile
	for told := false; ; {
		began := time.Now()
		_, err := bounded.Exec(bound, a.Work, "SELECT 1")
		if err == nil {
			err = bound.Err() // lib/pq closes a connection whose context ends as the answer comes
		}
		if err == nil || time.Now().Before(end) && bound.Err() == nil && !waiting.Short(err) { // any other error the work will see for itself
			return nil
		}
		if !told && bound.Err() == nil {
			n, failed := a.conn.Exec(bound, needSQL)
			if failed != nil { // and with its transaction the lock is gone
				return fmt.Errorf("%w: %w", errStarved, err)
			}
			told = n == 1
		}
		if !waiting.Pause(bound, waiting.Next(0, time.Since(began), false)) {
			return fmt.Errorf("%w: %w", errStarved, err)
		}
	}
}

// waitError adds to err how long the wait lasted and which sessions have the lock. It
// looks only when the waiter's own connection is back, since a pool of one has no
// other, and not after a driver call that did not return.
func (a *acquisition) waitError(ctx context.Context, err error) error {
	e := &WaitError{Key: Key(a.Key), Waited: a.report.Waited(), Err: err}
	if _, _, elsewhere := heldBy(ctx, a.DB, Key(a.Key)); elsewhere {
		e.Err = fmt.Errorf("%w, perhaps for this call itself, which has the key through another *sql.DB,", err)
	} else if !errors.Is(err, bounded.ErrNoReturn) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTime)
		defer cancel()
		e.Holders, _ = lookUp(ctx, a.DB, Key(a.Key))
	}
	return e
}

// lookUpTime bounds the look at who has the lock once a wait is over, when its caller
// wants the error.
const lookUpTime = time.Second

// returned has the leases that were given back while others polled for them, and for
// how long each was held.
var returned = struct {
	sync.Mutex
	of map[lookKey]givenBack
}{of: map[lookKey]givenBack{}}

type givenBack struct {
	contended time.Time
	held      time.Duration
}

const (
	recently = time.Second // so long after a contention others are taken to be there still
	heldFor  = 8           // times what the lease was held count as part of the next wait
)

// yield makes a process that had the lock just before pause for at least as long as the
// processes that poll for it. Without it, one of two processes that wanted the lock
// again and again got 1 turn of 285.
func (a *acquisition) yield(ctx context.Context) {
	returned.Lock()
	last, ok := returned.of[lookKey{a.DB, Key(a.Key)}]
	delete(returned.of, lookKey{a.DB, Key(a.Key)})
	returned.Unlock()
	if ok && a.sql.lease && !a.Try && time.Since(last.contended) < recently {
		a.wait.older, a.wait.contended = heldFor*last.held, last.contended
		waiting.Pause(ctx, waiting.Next(a.wait.older, 0, false))
	}
}

// remember is for yield, when the lease that was granted then is given back.
func (a *acquisition) remember(granted time.Time) {
	if a.wait.polls && a.wait.lasted {
		a.wait.contended = granted
	}
	if a.wait.contended.IsZero() {
		return
	}
	returned.Lock()
	defer returned.Unlock()
	maps.DeleteFunc(returned.of, func(_ lookKey, g givenBack) bool { return time.Since(g.contended) > recently })
	held := time.Since(granted)
	returned.of[lookKey{a.DB, Key(a.Key)}] = givenBack{a.wait.contended.Add(held), held}
}
