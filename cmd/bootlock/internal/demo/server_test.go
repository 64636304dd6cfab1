//go:build unix

package demo

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/test/pgserver"
	"github.com/bootlock/bootlock/test/sqltest"
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
	if _, err := pgserver.FirstBinDir(pgserver.BinDirs()); err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	s, err := startLocal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	dsn, drop, err := s.createDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if name := sqltest.Ask[string](t, sqltest.Open(t, "pgx", dsn), "SELECT current_database()"); !strings.HasPrefix(name, "bootlock_demo_") {
		t.Errorf("got database %q", name)
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
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v of %s; want it gone", err, folder)
	}
}
