package locktrace_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

func TestSessionString(t *testing.T) {
	t.Parallel()
	since := time.Date(2025, 3, 9, 12, 0, 0, 0, time.UTC)
	for want, s := range map[string]locktrace.Session{
		"pid 7":                              {PID: 7, Query: "SELECT 1", Granted: true},
		"pid 7 (deploy)":                     {PID: 7, Application: "deploy"},
		"pid 7 (user app)":                   {PID: 7, User: "app"},
		"pid 7 (user _[2J__pp)":              {PID: 7, User: "\x1b[2J\r\npp"},
		"pid 7 (from local)":                 {PID: 7, Client: "local"},
		"pid 7 (active)":                     {PID: 7, State: "active"},
		"pid 7 (since 2025-03-09T12:00:00Z)": {PID: 7, Since: since},
		"pid 7 (active, itself waiting for pid 4711, 4712)": {PID: 7, State: "active", BlockedBy: "4711, 4712"},
		"pid 7 (deploy, user app, from 10.0.0.7:50123, idle in transaction, since 2025-03-09T12:00:00Z)": {
			PID: 7, Application: "deploy", User: "app", Client: "10.0.0.7:50123", State: "idle in transaction", Since: since,
		},
	} {
		if got := s.String(); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// The command prints sessions as JSON, and scripts read it.
func TestSessionJSON(t *testing.T) {
	t.Parallel()
	s := locktrace.Session{
		PID: 7, Application: "deploy", User: "app", Client: "local", State: "active",
		Since: time.Date(2025, 3, 9, 12, 0, 0, 0, time.UTC), Query: "SELECT 1", Granted: true, BlockedBy: "4711",
	}
	got, err := json.Marshal(s)
	want := `{"pid":7,"application":"deploy","user":"app","client":"local","state":"active",` +
		`"since":"2025-03-09T12:00:00Z","query":"SELECT 1","granted":true,"blocked_by":"4711"}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}
