package locks

import (
	"fmt"
	"strings"
	"time"

	"github.com/bootlock/bootlock/internal/printable"
)

// Screen shows locks in place, on a terminal.
type Screen struct {
	Width, Height int
	Colour        bool
	Database      bool // show which
}

// Control sequences of terminals, from ECMA-48 and xterm.
const (
	Enter = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	Leave = "\x1b[?25h\x1b[?1049l"

	bold   = "\x1b[1m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	dim    = "\x1b[2m"
	plain  = "\x1b[0m"
)

// Draw is one picture: as many lines as there is room for, those of each lock
// together, none longer than the screen is wide.
func (s Screen) Draw(locks []*Lock, title string, now time.Time) string {
	var lines []string
	for i, l := range locks {
		more := s.lock(l, max(3, (s.Height-2-len(lines))/(len(locks)-i)))
		if len(lines)+len(more) > s.Height-2 {
			lines = append(lines[:min(len(lines), s.Height-3)], s.line(dim, fmt.Sprintf("… and %d more locks", len(locks)-i)))
			break
		}
		lines = append(lines, more...)
	}
	if len(locks) == 0 {
		lines = append(lines, s.line("", "Nobody holds a lock of bootlock here, or waits for one."))
	}
	head := now.Format(time.TimeOnly)
	lines = append([]string{s.line(bold, fmt.Sprintf("%-*s%s", max(0, s.Width-len(head)), OneLine(title, max(1, s.Width-len(head)-1)), head))}, lines...)
	// Overwriting line by line does not flicker, as clearing the screen would.
	return "\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J"
}

// lock has as many lines as there is room for.
func (s Screen) lock(l *Lock, room int) []string {
	title := l.Title()
	if s.Database && l.Database != "" {
		title += "  in " + l.Database
	}
	lines := []string{s.line(bold, title)}
	if len(l.Sessions) == 0 {
		return append(lines, s.line(dim, "  is free"))
	}
	shown := l.Sessions
	if len(shown) > room-1 {
		shown = shown[:room-2]
	}
	for _, one := range shown {
		colour := yellow
		if one.Granted {
			colour = green
		}
		who := one.Application
		if who == "" {
			who = fmt.Sprintf("pid %d", one.PID)
		}
		text := fmt.Sprintf("  %-12s %8s  %s", one.verb(), one.duration(""), who)
		for _, part := range []string{one.User, one.Client, one.State} {
			if part != "" {
				text += ", " + part
			}
		}
		lines = append(lines, s.line(colour, text))
	}
	if n := len(l.Sessions) - len(shown); n > 0 {
		lines = append(lines, s.line(dim, fmt.Sprintf("  … and %d more", n)))
	}
	return lines
}

func (s Screen) line(colour, text string) string {
	leading := len(text) - len(strings.TrimLeft(text, " "))
	runes := []rune(strings.Repeat(" ", leading) + printable.Text(text[leading:], ' ', ""))
	if len(runes) > s.Width {
		runes = append(runes[:s.Width-1], '…')
	}
	if s.Colour && colour != "" {
		return colour + string(runes) + plain
	}
	return string(runes)
}
