package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// logger writes what there is to say on stderr: as text for people, or as JSON
// lines.
type logger struct {
	w      io.Writer
	quiet  bool
	json   *slog.Logger // nil: text
	secret string       // never to be written
}

func (l *logger) configure(quiet bool, format string) error {
	l.quiet = quiet
	switch format {
	case "text":
	case "json":
		l.json = slog.New(slog.NewJSONHandler(l.w, nil))
	default:
		return usage("--log is text or json, not %q", format)
	}
	return nil
}

// say tells people text; the JSON line has msg and attrs instead.
func (l *logger) say(text, msg string, attrs ...slog.Attr) {
	switch {
	case l.quiet:
	case l.json != nil:
		l.json.LogAttrs(context.Background(), slog.LevelInfo, l.redact(msg), attrs...)
	default:
		fmt.Fprintln(l.w, "bootlock: "+l.redact(text))
	}
}

// fail tells of an error, even if quiet.
func (l *logger) fail(err error, attrs ...slog.Attr) {
	text := l.redact(err.Error())
	if l.json != nil {
		l.json.LogAttrs(context.Background(), slog.LevelError, text, attrs...)
		return
	}
	fmt.Fprintln(l.w, "bootlock: "+text)
}

func (l *logger) redact(text string) string {
	text = redact(text)
	if l.secret != "" {
		text = strings.ReplaceAll(text, l.secret, hidden)
	}
	return text
}

func (l *logger) waitingForServer(server string, waited time.Duration, err error) {
	l.say(fmt.Sprintf("waiting for the server at %s: %v", server, err),
		"waiting for the server", slog.String("server", server), seconds(waited), slog.String("error", l.redact(err.Error())))
}

// waitingForLock is a hook of locktrace.Trace.
func (l *logger) waitingForLock(what string) func(context.Context, locktrace.Wait) {
	return func(_ context.Context, w locktrace.Wait) {
		l.say(fmt.Sprintf("waiting for %s for %v now%s", what, w.Waited.Round(100*time.Millisecond), holders(w.Holders)),
			"waiting for the lock", slog.String("lock", w.Name), slog.String("key", advisorylock.Key(w.Key).String()), seconds(w.Waited), slog.Any("holders", w.Holders))
	}
}

func seconds(d time.Duration) slog.Attr { return slog.Float64("waited_seconds", d.Seconds()) }

// holders says who has the lock, and how to end them.
func holders(sessions []locktrace.Session) string {
	var b strings.Builder
	for _, s := range sessions {
		fmt.Fprintf(&b, "\n  held by %v\n  to end it: %s", s, s.TerminateSQL())
	}
	return b.String()
}
