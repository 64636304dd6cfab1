//go:build unix

package demo

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// lib/pq insists on TLS where a DSN does not name sslmode, and pgx does not: half
// of the processes of the demo failed for that.
func TestWithDatabase(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u:p@h:1/x":                        "postgres://u:p@h:1/d?sslmode=prefer",
		"postgres://u@h/x?sslmode=require&dbname=y":   "postgres://u@h/d?sslmode=require",
		"postgres://u@/x?host=%2Ftmp&sslmode=disable": "postgres://u@/d?host=%2Ftmp&sslmode=disable",
		"host=h user=u":                               "host=h user=u sslmode=prefer dbname=d",
		"host=h user=u dbname=x sslmode=disable":      "host=h user=u dbname=x sslmode=disable dbname=d",
	} {
		if got := withDatabase(dsn, "d"); got != want {
			t.Errorf("got %q of %q; want %q", got, dsn, want)
		}
	}
}

// A server of our own is gone when it is stopped, its data with it.
func TestLocalServer(t *testing.T) {
	if _, err := binaries(); err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	s, err := startLocal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			s.stop()
		}
	}()
	dsn, drop, err := s.createDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if err := withConn(t.Context(), dsn, func(conn *pgx.Conn) error {
		return conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&name)
	}); err != nil || name[:14] != "bootlock_demo_" {
		t.Errorf("got database %q, %v", name, err)
	}
	drop()
	u, err := url.Parse(s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	folder := u.Query().Get("host")
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v; want a folder that nobody else can enter", info, err)
	}
	s.stop()
	stopped = true
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(folder)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v of %s; want it gone", err, folder)
		}
	}
}
