package locktrace

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Log returns hooks that log long waits for locks, and a long migrate, to l. A quick
// start writes no line. If l is nil, each line goes to [slog.Default] of its time.
//
// After about a second of waiting, one line at level Info says what the wait is for and
// which session has held the lock since when, or why there is no connection to try for
// it. About every ten seconds a line at level Warn says that the wait goes on. One line
// says when it is over: at level Info if it got the lock, else at level Warn.
//
// While migrate runs, a line at level Info says so once a minute. A timer writes it, on
// a goroutine of its own, until Done of the step has been called or its context ends.
func Log(l *slog.Logger) *Trace {
	log := &waitLog{l}
	return &Trace{Start: log.start, Done: log.done, Waiting: log.waiting}
}

type waitLog struct{ l *slog.Logger }

// lines is how many lines a step has had. It travels in the step's context, and
// all hooks of a step run on one goroutine.
type lines int

type linesKey struct{ of *waitLog } // a trace may be joined from two

func (w *waitLog) linesOf(ctx context.Context) *lines {
	n, _ := ctx.Value(linesKey{w}).(*lines)
	return n
}

// waits reports whether a step may wait: Connect, Begin and UpToDate for a connection,
// Connect for a turn inside the process, Lock on the server, and Await until others have
// migrated.
func waits(s Step) bool {
	return s == Connect || s == Begin || s == Lock || s == UpToDate || s == Await
}

// start makes a context for the steps that may wait, and for migrate.
func (w *waitLog) start(ctx context.Context, e Event) context.Context {
	switch {
	case waits(e.Step):
		return context.WithValue(ctx, linesKey{w}, new(lines))
	case e.Step == Migrate:
		return w.watch(ctx, e)
	}
	return ctx
}

// progressEvery is how often Log says that migrate is running.
const progressEvery = time.Minute

// progress travels in the context of migrate.
type progress struct {
	mu    sync.Mutex
	timer *time.Timer // nil when migrate is done
}

type progressKey struct{ of *waitLog }

// watch says that migrate is running, until stop.
func (w *waitLog) watch(ctx context.Context, e Event) context.Context {
	p, began := new(progress), time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(progressEvery, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.timer == nil || ctx.Err() != nil {
			return
		}
		w.logger().LogAttrs(ctx, slog.LevelInfo, "bootlock: migrate is running",
			lockAttr(e.Name, e.Key), slog.Duration("running", time.Since(began).Round(time.Second)))
		p.timer.Reset(progressEvery)
	})
	return context.WithValue(ctx, progressKey{w}, p)
}

// stop waits for a line that is being written: none comes after Done.
func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

func (w *waitLog) waiting(ctx context.Context, wait Wait) {
	level, message := slog.LevelInfo, "bootlock: waiting for the lock"
	if n := w.linesOf(ctx); n != nil {
		if *n++; *n > 1 {
			level, message = slog.LevelWarn, "bootlock: still waiting for the lock"
		}
	}
	attrs := about(wait.Name, wait.Key, wait.For, wait.Waited)
	if len(wait.Holders) > 0 {
		attrs = append(attrs, slog.String("held_by", heldBy(wait.Holders)))
	}
	if wait.Err != nil { // it could not even ask
		attrs = append(attrs, slog.Any("error", wait.Err))
	}
	w.logger().LogAttrs(ctx, level, message, attrs...)
}

func (w *waitLog) done(ctx context.Context, e Event) {
	if p, ok := ctx.Value(progressKey{w}).(*progress); ok && e.Step == Migrate {
		p.stop()
	}
	if n := w.linesOf(ctx); n == nil || *n == 0 || !waits(e.Step) {
		return
	}
	attrs := about(e.Name, e.Key, e.For, e.Duration)
	if e.Err != nil {
		w.logger().LogAttrs(ctx, slog.LevelWarn, "bootlock: the wait ended without the lock", append(attrs, slog.Any("error", e.Err))...)
		return
	}
	w.logger().LogAttrs(ctx, slog.LevelInfo, "bootlock: the wait for the lock is over", attrs...)
}

func (w *waitLog) logger() *slog.Logger {
	if w.l == nil {
		return slog.Default()
	}
	return w.l
}

func about(name string, key int64, work Step, waited time.Duration) []slog.Attr {
	attrs := []slog.Attr{lockAttr(name, key), slog.Duration("waited", waited.Round(time.Millisecond))}
	if work != "" {
		attrs = append(attrs, slog.String("for", string(work)))
	}
	return attrs
}

func lockAttr(name string, key int64) slog.Attr {
	if name != "" {
		return slog.String("lock", name)
	}
	return slog.Int64("lock", key)
}

// heldBy names three sessions at most: there may be hundreds of fenced transactions.
func heldBy(sessions []Session) string {
	var texts []string
	for _, s := range sessions[:min(len(sessions), 3)] {
		texts = append(texts, s.String())
	}
	text := strings.Join(texts, "; ")
	if more := len(sessions) - len(texts); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}
