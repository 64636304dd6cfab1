package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
)

const logHelp = `Messages go to stderr: as text for people, or with --log json as one JSON object
a line, errors of the command line included. -q leaves out all but errors.

Fields of every line
  time            RFC 3339
  level           INFO or ERROR; an ERROR is the last line, and says why
  msg             what happened; see below

Messages, and the fields that they have besides
  waiting for the server   server, waited_seconds, error
  waiting for the lock     lock, key, waited_seconds, holders
  got the lock             lock, key, waited_seconds
  done                     lock, waited_seconds, held_seconds, exit_code
  nothing to do            lock, waited_seconds
  waiting to be ready      for, waited_seconds, holders
  not used                 keywords
  (any ERROR)              exit_code, and holders if somebody was in the way

Values
  lock            the name by --lock, by --schema, or the number by --key; a list
                  of them, separated by commas, if COMMAND runs under several
  key             the bigint as a string, since it may exceed what a JSON reader
                  keeps of a number
  *_seconds       a number, with fractions
  exit_code       bootlock's own
  holders         a list of sessions, as bootlock locks --json shows them: pid,
                  application, user, client, state, since, query, granted, shared;
                  what the role may not see is empty
  server, error   text; keywords is a list of text

More fields and messages may be added; those listed stay.`

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
		l.json = nil
	case "json":
		l.json = slog.New(slog.NewJSONHandler(l.w, nil))
	default:
		return usage("--log is text or json, not %q", format)
	}
	return nil
}

// say tells people text; the JSON line has msg and attrs instead. Without a text
// there is a JSON line only.
func (l *logger) say(text, msg string, attrs ...slog.Attr) {
	switch {
	case l.quiet:
	case l.json != nil:
		l.json.LogAttrs(context.Background(), slog.LevelInfo, l.redact(msg), attrs...)
	case text != "":
		fmt.Fprintln(l.w, "bootlock: "+visible(l.redact(text)))
	}
}

// fail tells of an error, even if quiet; people are told more besides.
func (l *logger) fail(text, more string, attrs ...slog.Attr) {
	if l.json != nil {
		l.json.LogAttrs(context.Background(), slog.LevelError, l.redact(text), attrs...)
		return
	}
	fmt.Fprintln(l.w, "bootlock: "+visible(l.redact(text+more)))
}

func (l *logger) redact(text string) string {
	text = dsn.Redact(text)
	if l.secret != "" {
		text = strings.ReplaceAll(text, l.secret, dsn.Hidden)
	}
	return text
}

func seconds(name string, d time.Duration) slog.Attr { return slog.Float64(name, d.Seconds()) }

// holders says who has the lock, and how to end them.
func holders(sessions []locktrace.Session, end string) string {
	var b strings.Builder
	for _, s := range sessions {
		fmt.Fprintf(&b, "\n  held by %v\n  to end it: %s", s, s.TerminateSQL())
	}
	if len(sessions) > 0 && end != "" {
		fmt.Fprintf(&b, "\n  or: %s", end)
	}
	return b.String()
}
