package locks

import (
	"fmt"
	"io"
	"strings"
	"time"

	pretty "github.com/jedib0t/go-pretty/v6/text"

	"github.com/bootlock/bootlock/internal/printable"
)

// Control sequences of terminals, from ECMA-48 and xterm.
const (
	Enter = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	Leave = "\x1b[?25h\x1b[?1049l"
)

// Fit shows lines in place, on a terminal: as many as there is room for, and none wider.
func Fit(text string, width, height int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > height {
		lines = append(lines[:height-1], fmt.Sprintf("… and %d more lines", len(lines)-height+1))
	}
	for i, line := range lines {
		lines[i] = pretty.Snip(line, width, "…")
	}
	// Overwriting line by line does not flicker, as clearing the screen would.
	return "\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J"
}

// title is what the lock is called in one line.
func (l *Lock) title() string {
	switch {
	case l.Key == nil:
		return fmt.Sprintf("advisory lock (%d, %d)", int32(l.ClassID), int32(l.ObjID)) //nolint:gosec // as they were given
	case l.Kind == Unknown:
		return fmt.Sprintf("advisory lock %d", *l.Key)
	}
	return fmt.Sprintf("%s %s  key %d", l.Kind, OneLine(l.Name, 63), *l.Key)
}

// Write describes the lock and all its sessions, with the SQL that ends a holder.
func (l *Lock) Write(w io.Writer, database bool) {
	fmt.Fprintf(w, "%s  classid %d  objid %d", l.title(), l.ClassID, l.ObjID)
	if database && l.Database != "" {
		fmt.Fprintf(w, "  database %s", OneLine(l.Database, 63))
	}
	fmt.Fprintln(w)
	if len(l.Sessions) == 0 {
		fmt.Fprintln(w, "  is free")
	}
	for _, s := range l.Sessions {
		s.write(w)
	}
}

func (s Session) write(w io.Writer) {
	does := "waits"
	if s.Granted {
		does = "holds"
	}
	if s.Shared {
		does += " shared"
	}
	if !s.Since.IsZero() { // else the role may not see it
		does += " for " + time.Duration(s.Seconds*float64(time.Second)).Round(100*time.Millisecond).String()
	}
	fmt.Fprintf(w, "  %s: %s\n", does, OneLine(s.String(), 300))
	if s.Query != "" {
		fmt.Fprintf(w, "    last statement: %s\n", OneLine(s.Query, 100))
	}
	if s.Terminate != "" {
		fmt.Fprintf(w, "    to end it: %s;\n", s.Terminate)
	}
}

// OneLine is the beginning of text, fit for a terminal.
func OneLine(text string, room int) string {
	return pretty.Snip(strings.Join(strings.Fields(printable.Text(text, ' ', "")), " "), room, "…")
}
