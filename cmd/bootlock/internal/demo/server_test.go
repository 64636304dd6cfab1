package demo

import "testing"

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
