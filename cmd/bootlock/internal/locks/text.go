package locks

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/bootlock/bootlock/internal/printable"
)

// Title is what the lock is called in one line.
func (l *Lock) Title() string {
	switch {
	case l.Key == nil:
		return fmt.Sprintf("advisory lock (%d, %d)", int32(l.ClassID), int32(l.ObjID)) //nolint:gosec // as they were given
	case l.Kind == Unknown:
		return fmt.Sprintf("advisory lock %d", *l.Key)
	}
	return l.Kind + " " + OneLine(l.Name, 63)
}

// Write describes the lock and all its sessions, with the SQL that ends a holder.
func (l *Lock) Write(w io.Writer, database bool) {
	fmt.Fprint(w, l.Title())
	if l.Key != nil && l.Kind != Unknown {
		fmt.Fprintf(w, "  key %d", *l.Key)
	}
	fmt.Fprintf(w, "  classid %d  objid %d", l.ClassID, l.ObjID)
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
	fmt.Fprintf(w, "  %s%s: %s\n", s.verb(), s.duration(" for "), OneLine(s.String(), 300))
	if s.Query != "" {
		fmt.Fprintf(w, "    last statement: %s\n", OneLine(s.Query, 100))
	}
	if s.Terminate != "" {
		fmt.Fprintf(w, "    to end it: %s;\n", s.Terminate)
	}
}

func (s Session) verb() string {
	verb := "waits"
	if s.Granted {
		verb = "holds"
	}
	if s.Shared {
		verb += " shared"
	}
	return verb
}

// duration is empty where the role may not see it.
func (s Session) duration(before string) string {
	if s.Since.IsZero() {
		return ""
	}
	return before + time.Duration(s.Seconds*float64(time.Second)).Round(100*time.Millisecond).String()
}

// OneLine is the beginning of text, fit for a terminal.
func OneLine(text string, room int) string {
	runes := []rune(strings.Join(strings.Fields(printable.Text(text, ' ', "")), " "))
	if len(runes) > room {
		return string(runes[:room-1]) + "…"
	}
	return string(runes)
}
