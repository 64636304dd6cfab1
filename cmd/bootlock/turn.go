package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/child"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/health"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/server"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
	"github.com/bootlock/bootlock/internal/fence"
	"github.com/bootlock/bootlock/internal/waiting"
)

// turn is what run and ensure share: a wait, and then COMMAND under a lock.
type turn struct {
	ttl, timeout, grace, killAfter time.Duration
	conflictCode                   int
	healthAddress                  string
	unless                         string

	app *app
	progress
	name   string // of what is waited for, for programs
	child  *child.Command
	server *server.Server
	limit  *time.Timer // ends a wait after --timeout; nil without it
	lost   error       // the loss of the lock, if COMMAND was ended for it
	fences []string    // the statement that fences a transaction, for each lock
	no     bool        // it was said what --unless asks about in vain
	idle   string      // why there was nothing to do
	got    func()      // says that the lock was waited for and is there, once that is known
	ran    []slog.Attr // what the end says of COMMAND
}

const (
	maxTTL     = 24 * 24 * time.Hour // the server counts it in milliseconds, in 32 bits
	maxGrace   = 2 * time.Second
	graceShare = 15 // of --ttl: less than the tenth that is left when a lease is given up
)

func (t *turn) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	t.ttl, t.grace = 30*time.Second, -1
	duration(f, &t.ttl, "ttl", "how long a holder that has gone silent keeps the lock")
	duration(f, &t.timeout, "timeout", "how long to wait for the lock (default: for ever)")
	duration(f, &t.grace, "grace", "how long COMMAND has to end after SIGTERM when the lock is lost (default: 2s, or less if --ttl is less than 30s)")
	duration(f, &t.killAfter, "kill-after", "kill COMMAND if it is still there so long after a signal was passed on to it (default: never)")
	f.IntVarP(&t.conflictCode, "conflict-exit-code", "E", exitNotInTime, "the exit code if somebody else has the lock for too long")
	f.StringVar(&t.healthAddress, "health", "", "serve /livez and /readyz at this address, such as :8086")
	f.StringVar(&t.unless, "unless", "", "a query that returns one boolean; if it is true, there is nothing to do")
	// What follows the command's name is the command's, with or without --.
	f.SetInterspersed(false)
}

func (t *turn) check() error {
	switch {
	case t.ttl < time.Second:
		return usage("--ttl must be at least one second")
	case t.ttl > maxTTL:
		return usage("--ttl must be at most %v", maxTTL)
	case t.timeout < 0 || t.killAfter < 0 || t.grace < -1:
		return usage("--timeout, --grace and --kill-after cannot be negative")
	case t.conflictCode < 0 || t.conflictCode > 255:
		return usage("-E is an exit code, from 0 to 255")
	}
	if t.grace == -1 {
		t.grace = min(maxGrace, t.ttl/graceShare)
	}
	return nil
}

// begin prepares COMMAND, if there is one, and connects. finish takes the error
// of the work to that of bootlock, and cleans up. Without patience too few
// connections are not waited for.
func (t *turn) begin(parent context.Context, a *app, command string, patient bool, args []string) (_ context.Context, finish func(error) error, err error) {
	t.app, t.log, t.begun, t.over = a, a.log, time.Now(), "free"
	ctx, caught, stop := signals.Catch(parent)
	finish = func(err error) error {
		err = t.explain(ctx, cmp.Or(err, t.lost))
		t.sayDone(err)
		t.health.Close()
		if t.server != nil {
			_ = t.server.Close()
		}
		stop()
		return err
	}
	if t.child, err = a.newChild(args, caught); err != nil {
		return nil, nil, finish(err)
	}
	if t.child != nil {
		t.child.Grace, t.child.KillAfter = t.grace, t.killAfter
	}
	if t.healthAddress != "" {
		if t.health, err = health.Listen(t.healthAddress); err != nil {
			return nil, nil, finish(&exitError{code: exitOwn, err: err})
		}
	}
	if t.timeout > 0 {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		t.limit = time.AfterFunc(t.timeout, func() { cancel(&timeoutError{t.timeout}) })
	}
	var room time.Duration
	if patient {
		room = server.Forever
	}
	if t.server, err = a.connectToLock(ctx, command, room, &t.progress); err != nil {
		return nil, nil, finish(err)
	}
	t.last, t.next = reason{}, time.Time{}
	return ctx, finish, nil
}

// granted ends --timeout.
func (t *turn) granted() {
	if t.limit != nil {
		t.limit.Stop()
	}
}

// wanted begins it again, for another lock.
func (t *turn) wanted() {
	if t.limit != nil {
		t.limit.Reset(t.timeout)
	}
}

// newChild prepares COMMAND, if there is one.
func (a *app) newChild(args []string, caught *signals.Catcher) (*child.Command, error) {
	if len(args) == 0 {
		return nil, nil
	}
	c, err := child.New(args, a.in, a.out, a.err)
	if err != nil {
		return nil, commandError(err)
	}
	c.Signals = caught
	c.Say = func(text string) { a.log.say(text, text, slog.String("command", args[0])) }
	return c, nil
}

// replace lets COMMAND, if there is one, take the place of this process.
func replace(c *child.Command) error {
	if c == nil {
		return nil
	}
	code, err := c.Replace()
	if err != nil {
		return commandError(err)
	}
	return exitWith(code)
}

func commandError(err error) error {
	switch {
	case errors.Is(err, child.ErrNotFound):
		return &exitError{code: exitNotFound, err: err}
	case errors.Is(err, child.ErrCannotRun):
		return &exitError{code: exitCannotRun, err: err}
	}
	return err
}

// run runs COMMAND under the locks of keys, which are held.
func (t *turn) run(ctx context.Context, keys []advisorylock.Key) error {
	t.granted()
	t.server.RememberLocks()
	t.health.Set(health.Report{State: health.Running})
	t.child.Setenv(heldVariable, heldWith(t.server.ID, keys))
	t.child.Setenv("BOOTLOCK_FENCE_SQL", strings.Join(t.fences, "; "))

	held, seen := time.Now(), make(chan struct{})
	ending := context.AfterFunc(ctx, func() {
		defer close(seen)
		if errors.Is(context.Cause(ctx), advisorylock.ErrLost) {
			t.server.Linger(applicationName("ending"))
		}
	})
	code, err := t.child.Run(ctx)
	if !ending() {
		<-seen
	}
	if errors.Is(err, advisorylock.ErrLost) {
		t.lost = err // Hold says why, if it knows more
		return nil
	}
	if err != nil {
		return commandError(err)
	}
	t.ran = []slog.Attr{seconds("waited_seconds", held.Sub(t.begun)), seconds("held_seconds", time.Since(held)), slog.Int("exit_code", code)}
	return exitWith(code)
}

// sayDone says that the work is done, or that there was none, unless err says more.
func (t *turn) sayDone(err error) {
	var exit *exitError
	if err != nil && (!errors.As(err, &exit) || exit.err != nil) {
		return
	}
	text := ""
	if t.idle != "" {
		text = "nothing to do: " + t.idle
	}
	if t.ran == nil {
		t.ran = []slog.Attr{seconds("waited_seconds", time.Since(t.begun))}
	}
	t.log.say(text, "done", append([]slog.Attr{slog.String("lock", t.name), slog.Bool("nothing_to_do", t.idle != "")}, t.ran...)...)
}

// fence remembers the fence of the lock that was taken with ctx.
func (t *turn) fence(ctx context.Context) error {
	if t.got != nil { // a waiter that finds that nothing is left to do does not take it
		t.got()
	}
	statement, err := fence.SQL(ctx)
	t.fences = append(t.fences, statement)
	return err
}

func (t *turn) unlessDone(ctx context.Context, fn func(context.Context) error) error {
	if done, err := t.done(ctx); done || err != nil {
		return err
	}
	return fn(ctx)
}

// done asks --unless, again and again while there is no connection.
func (t *turn) done(ctx context.Context) (bool, error) {
	if t.unless == "" {
		return false, nil
	}
	q := question{flag: "--unless", query: t.unless}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		t.is(health.Waiting, q.flag, reason{text: q.flag + " has not been answered", noAnswer: true})
		yes, why, err := q.ask(ctx, t.server.DB)
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case waiting.Short(err):
			t.progress.server(t.server.Address, err)
		case err != nil:
			return false, err
		default:
			t.last = reason{}
			t.answered(yes, why)
			return yes, nil
		}
		waiting.Pause(ctx, wait)
	}
}

func (t *turn) answered(yes bool, why string) {
	switch {
	case yes:
		t.idle = "--unless says yes"
		t.granted()
	case why != "" && !t.no:
		t.no = true
		t.log.say("--unless says no, for now: "+why, "no, for now", slog.String("lock", t.name), slog.String("reason", why))
	}
}

// explain gives err the exit code that it stands for, and says who or what was in
// the way at last.
func (t *turn) explain(ctx context.Context, err error) error {
	var late *timeoutError
	var exit *exitError
	if err == nil || errors.As(err, &exit) || !errors.As(context.Cause(ctx), &late) {
		err = t.app.failure(ctx, err)
		if errors.As(err, &exit) && exit.code == exitNotInTime {
			exit.code = t.conflictCode
		}
		return err
	}
	var wait *advisorylock.WaitError
	if errors.As(err, &wait) {
		if len(wait.Holders) > 0 {
			t.last = heldBy(wait.Holders)
		} else if server := (*pgconn.PgError)(nil); waiting.Short(wait.Err) && errors.As(wait.Err, &server) {
			t.last = reason{text: "there is no connection for it: " + t.log.driver(server), noAnswer: true}
		} else if !t.last.noAnswer {
			t.ping()
		}
	}
	return t.late(late.after, t.conflictCode)
}

// ping finds out whether the server still answers, when nothing is known of who is
// in the way.
func (t *turn) ping() {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := t.server.DB.PingContext(ctx); err != nil {
		t.last = reason{text: t.log.driver(err), noAnswer: true}
	}
}

func (t *turn) trace() *locktrace.Trace {
	said := false
	return &locktrace.Trace{
		Waiting: func(_ context.Context, w locktrace.Wait) {
			said = true
			r := heldBy(w.Holders)
			if w.Err != nil {
				r = reason{text: t.log.driver(w.Err), noAnswer: true}
			}
			r.text += inside(w.Holders)
			t.is(health.Waiting, t.what, r)
			t.say(t.what, "waiting for the lock", false, slog.String("lock", w.Name), slog.String("key", advisorylock.Key(w.Key).String()))
		},
		Done: func(_ context.Context, e locktrace.Event) {
			if said && e.Step == locktrace.Lock && e.Err == nil {
				said = false
				t.got = func() {
					t.log.say(fmt.Sprintf("got %s after %v", t.what, e.Duration.Round(100*time.Millisecond)),
						"got the lock", slog.String("lock", e.Name), slog.String("key", advisorylock.Key(e.Key).String()), seconds("waited_seconds", e.Duration))
				}
				if e.For == locktrace.CreateSchema {
					t.got()
				}
			}
		},
	}
}

var plainWord = regexp.MustCompile(`^[\w./:@-]+$`)

// shellQuote makes one word of text that can be pasted into a shell.
func shellQuote(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
