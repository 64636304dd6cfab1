package doctor_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/doctor"
	"github.com/bootlock/bootlock/test/hostile"
	"github.com/bootlock/bootlock/test/pgtest"
)

func TestMain(m *testing.M) {
	defer pgtest.Shutdown()
	m.Run()
}

func open(t *testing.T, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func examine(t *testing.T, driver, dsn string) *doctor.Report {
	t.Helper()
	report, err := doctor.Run(t.Context(), open(t, driver, dsn), open(t, driver, dsn))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		t.Logf("%-4s %s: %s (%s)", f.Level, f.Name, f.Text, f.Advice)
	}
	return report
}

// find returns the finding of that name.
func find(t *testing.T, r *doctor.Report, name string) doctor.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("got no finding %q in %v", name, r.Findings)
	return doctor.Finding{}
}

var drivers = []string{"pgx", "postgres"}

func TestRealServer(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			report := examine(t, driver, pgtest.Shared(t).NewDB(t))
			if !report.Protects {
				t.Error("got Protects false on a real server")
			}
			for _, f := range report.Findings {
				if f.Level != doctor.OK || f.Text == "" {
					t.Errorf("got %s %s %q; want ok as a superuser on a new database", f.Level, f.Name, f.Text)
				}
			}
			if pooler := find(t, report, "pooler"); !strings.HasPrefix(pooler.Text, "none") {
				t.Errorf("got pooler %q; want none", pooler.Text)
			}
		})
	}
}

// doctor is what a superuser runs where something is wrong: nothing that others have
// made there may run with it.
func TestLookAlikesAreNotCalled(t *testing.T) {
	for name, path := range hostile.Paths {
		for _, driver := range drivers {
			t.Run(name+"/"+driver, func(t *testing.T) {
				t.Parallel()
				dsn := pgtest.Shared(t).NewDB(t)
				hostile.Install(t, dsn)
				for _, f := range examine(t, driver, pgtest.WithParams(dsn, "search_path", path)).Findings {
					if f.Level != doctor.OK {
						t.Errorf("got %s %s: %s; want ok, as without look-alikes", f.Level, f.Name, f.Text)
					}
				}
			})
		}
	}
}

// A role with nothing but CONNECT: locks work, and the report says what does not.
func TestRoleWithoutRights(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			dsn := pgtest.Shared(t).NewDB(t)
			role := "doctor_nobody_" + driver
			admin := open(t, driver, dsn)
			exec(t, admin, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'")
			exec(t, admin, "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
			t.Cleanup(func() { exec(t, admin, "DROP ROLE "+role) })
			report := examine(t, driver, asUser(t, dsn, role, "secret"))
			if !report.Protects {
				t.Error("got Protects false; want true, locks need no rights")
			}
			for _, name := range []string{"create schemas", "plpgsql", "see other sessions", "end other sessions"} {
				if f := find(t, report, name); f.Level != doctor.Warn || f.Advice == "" {
					t.Errorf("got %s %q, advice %q; want a warning with advice", f.Level, name, f.Advice)
				}
			}
		})
	}
}

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), statement); err != nil {
		t.Errorf("%s: %v", statement, err)
	}
}

func asUser(t *testing.T, dsn, user, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

func TestPoolOfOne(t *testing.T) {
	dsn := pgtest.Shared(t).NewDB(t)
	a, b := open(t, "pgx", dsn), open(t, "pgx", dsn)
	a.SetMaxOpenConns(1)
	b.SetMaxOpenConns(1)
	report, err := doctor.Run(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	if f := find(t, report, "pool size"); f.Level != doctor.Warn || !report.Protects {
		t.Errorf("got pool size %s, Protects %v; want a warning, true", f.Level, report.Protects)
	}
	if n := a.Stats().InUse + b.Stats().InUse; n != 0 {
		t.Errorf("got %d connections in use after Run; want 0", n)
	}
}

// A driver with a pool of its own has a limit that database/sql cannot see: locks
// that count on that one for room can wait for a connection for ever.
func TestUnseenLimit(t *testing.T) {
	config, err := pgxpool.ParseConfig(pgtest.Shared(t).NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 2
	var dbs []*sql.DB
	for range 2 {
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		db := stdlib.OpenDBFromPool(pool)
		t.Cleanup(func() { db.Close() })
		dbs = append(dbs, db)
	}
	report, err := doctor.Run(t.Context(), dbs[0], dbs[1])
	if err != nil {
		t.Fatal(err)
	}
	if f := find(t, report, "pool size"); f.Level != doctor.Warn || !strings.Contains(f.Advice, "SetMaxOpenConns(2)") {
		t.Errorf("got %+v; want a warning with the limit", f)
	}
	dbs[0].SetMaxOpenConns(2)
	if report, err = doctor.Run(t.Context(), dbs[0], dbs[1]); err != nil {
		t.Fatal(err)
	}
	if f := find(t, report, "pool size"); f.Level != doctor.OK {
		t.Errorf("got %+v once database/sql knows; want ok", f)
	}
}

func TestErrors(t *testing.T) {
	t.Run("one pool", func(t *testing.T) {
		db := open(t, "pgx", pgtest.Shared(t).NewDB(t))
		if _, err := doctor.Run(t.Context(), db, db); err == nil || !strings.Contains(err.Error(), "two pools") {
			t.Errorf("got %v; want an error, nothing can be proved within one pool", err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		const dsn = "postgres://nobody@127.0.0.1:1/nothing?sslmode=disable&connect_timeout=5"
		if _, err := doctor.Run(t.Context(), open(t, "pgx", dsn), open(t, "pgx", dsn)); err == nil || !strings.Contains(err.Error(), "connect") {
			t.Errorf("got %v; want an error of the connection", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		dsn := pgtest.Shared(t).NewDB(t)
		if _, err := doctor.Run(ctx, open(t, "pgx", dsn), open(t, "pgx", dsn)); err == nil {
			t.Error("got nil; want the context's error")
		}
	})
}

func TestJSON(t *testing.T) {
	got, err := json.Marshal(doctor.Report{Findings: []doctor.Finding{{Name: "n", Level: doctor.Fail, Text: "t"}}})
	const want = `{"protects":false,"findings":[{"name":"n","level":"fail","text":"t"}]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}
