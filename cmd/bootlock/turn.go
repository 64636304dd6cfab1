package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/child"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/health"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/server"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
	"github.com/bootlock/bootlock/internal/fence"
)

// turn is what run and ensure share: a wait, and then COMMAND under a lock.
type turn struct {
	ttl, timeout, grace, killAfter time.Duration
	conflictCode                   int
	healthAddress                  string
	unless                         string

	app     *app
	what    string // is waited for, in words for people
	name    string // the same for programs
	end     string // the command that ends the holder
	child   *child.Command
	server  *server.Server
	health  *health.Server
	granted func() // ends --timeout
	begun   time.Time
	lost    error    // the loss of the lock, if COMMAND was ended for it
	fences  []string // the statement that fences a transaction, for each lock
}

const (
	maxTTL     = 24 * 24 * time.Hour // the server counts it in milliseconds, in 32 bits
	maxGrace   = 2 * time.Second
	graceShare = 15 // of --ttl: less than the tenth that is left when a lease is given up
)

func (t *turn) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.DurationVar(&t.ttl, "ttl", 30*time.Second, "how long a holder that has gone silent keeps the lock")
	f.DurationVar(&t.timeout, "timeout", 0, "how long to wait for the lock (default: for ever)")
	f.DurationVar(&t.grace, "grace", -1, "how long COMMAND has to end after SIGTERM when the lock is lost (default: 2s, or less if --ttl is less than 30s)")
	f.DurationVar(&t.killAfter, "kill-after", 0, "kill COMMAND if it is still there so long after a signal was passed on to it (default: never)")
	f.IntVarP(&t.conflictCode, "conflict-exit-code", "E", exitNotInTime, "the exit code if somebody else has the lock for too long")
	f.StringVar(&t.healthAddress, "health", "", "serve /livez and /readyz at this address, such as :8086")
	f.StringVar(&t.unless, "unless", "", "a query; if it returns true, or rows that are no boolean, there is nothing to do")
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
// of the work to that of bootlock, and cleans up.
func (t *turn) begin(parent context.Context, a *app, command string, args []string) (_ context.Context, finish func(error) error, err error) {
	t.app, t.begun = a, time.Now()
	ctx, caught, stop := signals.Catch(parent)
	finish = func(err error) error {
		err = t.explain(ctx, cmp.Or(err, t.lost))
		t.health.Close()
		if t.server != nil {
			_ = t.server.Close()
		}
		stop()
		return err
	}
	if t.child, err = t.newChild(args, caught); err != nil {
		return nil, nil, finish(err)
	}
	if t.healthAddress != "" {
		if t.health, err = health.Listen(t.healthAddress); err != nil {
			return nil, nil, finish(&exitError{code: exitOwn, err: err})
		}
	}
	patience := t.timeout
	if patience == 0 {
		patience = 1<<63 - 1
	}
	if t.server, err = a.connectToLock(ctx, command, patience); err != nil {
		return nil, nil, finish(err)
	}
	ctx = t.limit(ctx)
	return ctx, finish, nil
}

func (t *turn) newChild(args []string, caught *signals.Catcher) (*child.Command, error) {
	if len(args) == 0 {
		return nil, nil
	}
	c, err := child.New(args, t.app.in, t.app.out, t.app.err)
	if err != nil {
		return nil, commandError(err)
	}
	c.Grace, c.KillAfter, c.Signals = t.grace, t.killAfter, caught
	c.Say = func(text string) { t.app.log.say(text, text, slog.String("command", args[0])) }
	return c, nil
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

// limit ends ctx with a timeoutError, unless granted is called before.
func (t *turn) limit(ctx context.Context) context.Context {
	if t.timeout == 0 {
		t.granted = func() {}
		return ctx
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(t.timeout, func() { cancel(&timeoutError{t.timeout}) })
	t.granted = func() { timer.Stop() }
	return ctx
}

// errClosed is the loss of a lock that was seen before a heartbeat could fail.
var errClosed = fmt.Errorf("%w: the server has closed the connection", advisorylock.ErrLost)

// run runs COMMAND under the locks of keys, which are held.
func (t *turn) run(ctx context.Context, keys []advisorylock.Key) error {
	t.granted()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer t.server.WatchLocks(func() { cancel(errClosed) })()
	t.server.AwaitRoom(ctx)
	t.health.Run()
	t.child.Setenv(heldVariable, heldWith(t.server.ID, keys))
	t.child.Setenv("BOOTLOCK_FENCE_SQL", strings.Join(t.fences, "; "))

	held := time.Now()
	ending := context.AfterFunc(ctx, func() { t.server.Linger(applicationName("ending")) })
	defer ending()
	code, err := t.child.Run(ctx)
	if errors.Is(err, advisorylock.ErrLost) {
		t.lost = err // Hold says why, if it knows more
		return nil
	}
	if err != nil {
		return commandError(err)
	}
	t.app.log.say("", "done", slog.String("lock", t.name), seconds("waited_seconds", held.Sub(t.begun)),
		seconds("held_seconds", time.Since(held)), slog.Int("exit_code", code))
	return exitWith(code)
}

// fence remembers the fence of the lock that was taken with ctx.
func (t *turn) fence(ctx context.Context) error {
	statement, err := fence.SQL(ctx)
	t.fences = append(t.fences, statement)
	return err
}

// nothingToDo says that --unless has found nothing to do.
func (t *turn) nothingToDo() {
	t.granted()
	t.app.log.say("", "nothing to do", slog.String("lock", t.name), seconds("waited_seconds", time.Since(t.begun)))
}

// explain gives err the exit code that it stands for, and says who is in the way.
func (t *turn) explain(ctx context.Context, err error) error {
	var wait *advisorylock.WaitError
	var late *timeoutError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wait) && errors.As(err, &late):
		return &exitError{code: t.conflictCode, err: fmt.Errorf("%s was not free within %v", t.what, late.after), holders: list(wait.Holders), end: t.end}
	}
	err = t.app.failure(ctx, err)
	var exit *exitError
	if errors.As(err, &exit) && exit.code == exitNotInTime {
		exit.code = t.conflictCode
	}
	return err
}

// trace tells of a wait while it lasts, and of its end.
func (t *turn) trace() *locktrace.Trace {
	said := false
	return &locktrace.Trace{
		Waiting: func(_ context.Context, w locktrace.Wait) {
			said = true
			t.health.Wait(t.what, w.Holders)
			t.app.log.say(fmt.Sprintf("waiting for %s for %v now%s", t.what, w.Waited.Round(100*time.Millisecond), holders(w.Holders, t.end)),
				"waiting for the lock", slog.String("lock", w.Name), slog.String("key", advisorylock.Key(w.Key).String()),
				seconds("waited_seconds", w.Waited), slog.Any("holders", list(w.Holders)))
		},
		Done: func(_ context.Context, e locktrace.Event) {
			if said && e.Step == locktrace.Lock && e.Err == nil {
				said = false
				t.app.log.say(fmt.Sprintf("got %s after %v", t.what, e.Duration.Round(100*time.Millisecond)),
					"got the lock", slog.String("lock", e.Name), slog.String("key", advisorylock.Key(e.Key).String()), seconds("waited_seconds", e.Duration))
			}
		},
	}
}

// list is never nil, so that it is a list in JSON.
func list(sessions []locktrace.Session) []locktrace.Session {
	if sessions == nil {
		return []locktrace.Session{}
	}
	return sessions
}

// shellQuote makes one word of text that can be pasted into a shell.
func shellQuote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@", r)
	}
	if text != "" && !slices.ContainsFunc([]rune(text), func(r rune) bool { return !plain(r) }) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
