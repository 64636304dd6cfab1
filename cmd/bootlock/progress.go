package main

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/health"
)

const sayEvery = 10 * time.Second

type reason struct {
	text     string
	noAnswer bool // from the server: who has the lock, or what is so, is not known
	holders  []locktrace.Session
}

func heldBy(holders []locktrace.Session) reason {
	const named = 3
	var who []string
	for _, h := range holders[:min(len(holders), named)] {
		who = append(who, "held by "+h.String())
	}
	if more := len(holders) - named; more > 0 {
		who = append(who, fmt.Sprintf("and by %d more", more))
	}
	if len(who) == 0 {
		who = []string{"somebody else has it"}
	}
	return reason{text: strings.Join(who, "; "), holders: holders}
}

// progress tells of a wait while it lasts, and of its end.
type progress struct {
	log    *logger
	health *health.Server
	what   string // is waited for
	over   string // what it was not, at the end: "free", or "ready"
	end    string // the command that ends a holder
	begun  time.Time
	next   time.Time // when there is something to say again
	last   reason
}

// server tells that the server does not answer, or has no connection left.
func (p *progress) server(address string, err error) {
	text := p.log.driver(err)
	p.is(health.Connecting, "the server", reason{text: text, noAnswer: true})
	p.say("the server at "+address, "waiting for the server", true, slog.String("server", address))
}

func (p *progress) is(state, what string, r reason) {
	p.last = r
	p.health.Set(health.Report{State: state, For: what, Reason: r.text, Holders: r.holders})
}

// say says the reason, or if paced, only now and then.
func (p *progress) say(what, msg string, paced bool, attrs ...slog.Attr) {
	now := time.Now()
	if paced && now.Before(p.next) {
		return
	}
	p.next = now.Add(sayEvery)
	waited := now.Sub(p.begun)
	p.log.say(fmt.Sprintf("waiting for %s for %v now: %s%s", what, waited.Round(100*time.Millisecond), p.last.text, howToEnd(p.last.holders, p.end)),
		msg, append(attrs, seconds("waited_seconds", waited), slog.String("reason", p.last.text), slog.Any("holders", list(p.last.holders)))...)
}

// late is the end of a wait after so long: with code if there was an answer.
func (p *progress) late(after time.Duration, code int) error {
	if p.last.noAnswer {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("%s: no answer within %v: %s", p.what, after, p.last.text), reason: p.last.text}
	}
	text := fmt.Sprintf("%s was not %s within %v", p.what, p.over, after)
	if p.last.text != "" {
		text += ": " + p.last.text
	}
	return &exitError{code: code, err: fmt.Errorf("%s", text), reason: p.last.text, holders: list(p.last.holders), end: p.end}
}

// list is never nil, so that it is a list in JSON.
func list(sessions []locktrace.Session) []locktrace.Session {
	if sessions == nil {
		return []locktrace.Session{}
	}
	return sessions
}

func howToEnd(sessions []locktrace.Session, end string) string {
	var b strings.Builder
	for _, s := range sessions {
		if s.PID == 0 {
			b.WriteString("\n  to end it: ROLLBACK PREPARED, with its gid of pg_prepared_xacts")
		} else {
			fmt.Fprintf(&b, "\n  to end it: %s", s.TerminateSQL())
		}
	}
	if len(sessions) > 0 && end != "" {
		fmt.Fprintf(&b, "\n  or: %s", end)
	}
	return b.String()
}
