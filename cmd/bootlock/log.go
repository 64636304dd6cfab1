package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
	"github.com/bootlock/bootlock/internal/printable"
)

const logHelp = `Messages go to stderr: as text for people, or with --log json as one JSON object
a line, errors of the command line included. -q leaves out all but errors.

Fields of every line
  time            RFC 3339
  level           INFO or ERROR; an ERROR is the last line, and says why
  msg             what happened; see below

Messages, and the fields that they have besides
  waiting for the server   server, waited_seconds, reason
  waiting for the lock     lock, key, waited_seconds, reason, holders
  got the lock             lock, key, waited_seconds
  done                     lock, waited_seconds, nothing_to_do: whether there was
                           nothing; if COMMAND ran under a lock held_seconds, exit_code
  no, for now              lock, reason: what --unless asks about is not there yet
  waiting to be ready      waited_seconds, reason
  not used                 keywords
  standby                  none: the locks shown are not those of the primary
  (any ERROR)              exit_code; after a wait reason and holders

Values
  lock            the name by --lock, by --schema, or the number by --key; a list
                  of them, separated by commas, if COMMAND runs under several
  key             the bigint as a string, since it may exceed what a JSON reader
                  keeps of a number
  *_seconds       a number, with fractions
  exit_code       bootlock's own
  holders         a list of sessions, as bootlock locks --json shows them: pid,
                  application, user, client, state, since, query, granted;
                  what the role may not see is empty
  reason          why a wait goes on, or went on at last: who has the lock, why there
                  is no answer, or that the answer is no
  server          text; keywords is a list of text

More fields and messages may be added; those listed stay.`

type logger struct {
	w      io.Writer
	quiet  bool
	format string      // text or json
	config *dsn.Config // whose password no error of the driver may show; nil before it is known
}

func (l *logger) check() error {
	if l.format != "text" && l.format != "json" {
		return usage("--log is text or json, not %q", l.format)
	}
	return nil
}

// say tells people text; the JSON line has msg and attrs instead. Without a text
// there is a JSON line only.
func (l *logger) say(text, msg string, attrs ...slog.Attr) {
	switch {
	case l.quiet:
	case l.format == "json":
		l.json(slog.LevelInfo, msg, attrs)
	case text != "":
		l.text(text)
	}
}

// fail tells of an error, even if quiet; people are told more besides.
func (l *logger) fail(text, more string, attrs ...slog.Attr) {
	if l.format == "json" {
		l.json(slog.LevelError, text, attrs)
		return
	}
	l.text(text + more)
}

func (l *logger) json(level slog.Level, msg string, attrs []slog.Attr) {
	slog.New(slog.NewJSONHandler(l.w, nil)).LogAttrs(context.Background(), level, msg, attrs...)
}

func (l *logger) text(text string) { _, _ = io.WriteString(l.w, "bootlock: "+visible(text)+"\n") }

// visible is text without what could steer a terminal. Errors of the server have
// names in them, and texts, that come from others.
func visible(text string) string { return printable.Text(text, '_', "\n\t") }

// driver is an error of the driver, without the password.
func (l *logger) driver(err error) string { return l.config.Redact(err.Error()) }

func seconds(name string, d time.Duration) slog.Attr { return slog.Float64(name, d.Seconds()) }

// patient writes to w, whose reader may be gone, or slow: a message is not worth
// the work. While one cannot be written, the next are left out.
type patient struct {
	w    io.Writer
	turn chan struct{} // has room for one
}

const messageTime = 250 * time.Millisecond

func (p *patient) Write(text []byte) (int, error) {
	late := time.After(messageTime)
	select {
	case p.turn <- struct{}{}:
	case <-late:
		return len(text), nil
	}
	written, own := make(chan struct{}), bytes.Clone(text)
	go func() {
		_, _ = p.w.Write(own)
		<-p.turn
		close(written)
	}()
	select {
	case <-written:
	case <-late:
	}
	return len(text), nil
}
