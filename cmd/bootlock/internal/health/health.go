// Package health tells a prober, such as the kubelet, how far a start is: alive
// all along, and ready once the command runs.
package health

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// The states of a start.
const (
	Connecting = "connecting" // to the server
	Waiting    = "waiting"    // for a lock
	Running    = "running"    // the command runs, or what came before it is done
)

// Report is the answer to every request.
type Report struct {
	State   string              `json:"state"`
	For     string              `json:"for,omitempty"`    // what is waited for
	Reason  string              `json:"reason,omitempty"` // why it is
	Waited  float64             `json:"waited_seconds"`
	Holders []locktrace.Session `json:"holders,omitempty"` // who has the lock, as far as this role may see
}

// Server answers GET /livez with 200, and GET /readyz with 503 before the state
// is [Running] and 200 from then on, both with a [Report] as JSON. A nil Server
// answers nobody. It is safe for concurrent use.
type Server struct {
	http http.Server

	mu     sync.Mutex
	report Report
	since  time.Time
}

// Listen starts a server at address, such as ":8086".
func Listen(address string) (*Server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &Server{report: Report{State: Connecting}, since: time.Now()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, false) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, true) })
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go s.http.Serve(l) //nolint:errcheck // Close ends it
	return s, nil
}

func (s *Server) answer(w http.ResponseWriter, readiness bool) {
	s.mu.Lock()
	report := s.report
	if report.State != Running {
		report.Waited = time.Since(s.since).Seconds()
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if readiness && report.State != Running {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(report)
}

// Set says how far the start is, without Waited.
func (s *Server) Set(r Report) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Waited = time.Since(s.since).Seconds()
	s.report = r
}

// Close gives the address back.
func (s *Server) Close() {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.http.Shutdown(ctx)
}
