// Package lab has what the experiments share: a server, poolers in front of it, fresh
// databases, and what the server knows of the work that it did.
package lab

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the drivers to measure with
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

// Lab is a server of its own. It is for one experiment at a time.
type Lab struct {
	Server *pgtest.Server

	poolers map[int]*pgbouncer.Pooler
}

// Connections is how many the server has.
const Connections = 600

// Start starts a server from the binaries of this machine that counts statements and
// lets [Connections] in. The caller calls Stop.
func Start(ctx context.Context) (*Lab, error) {
	server, err := pgtest.Start(ctx, pgtest.Options{
		Origin: pgtest.OriginLocal,
		Settings: map[string]string{
			"max_connections": strconv.Itoa(Connections), "shared_preload_libraries": "pg_stat_statements",
			"pg_stat_statements.max": "5000", "jit": "off",
		},
	})
	if err != nil {
		return nil, err
	}
	l := &Lab{Server: server, poolers: map[int]*pgbouncer.Pooler{}}
	if err := l.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
		l.Stop()
		return nil, err
	}
	return l, nil
}

// Stop ends the poolers and the server.
func (l *Lab) Stop() {
	for _, p := range l.poolers {
		p.Stop()
	}
	_ = l.Server.Stop()
}

// Exec runs statements in the database postgres.
func (l *Lab) Exec(ctx context.Context, statements string) error {
	db, err := sql.Open("pgx", l.Server.DSN)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, statements)
	return err
}

// Pooled is a DSN by way of a PgBouncer in transaction mode that has size server
// connections for each database. Old versions of PgBouncer keep no prepared
// statements, so that pgx is told to prepare none.
func (l *Lab) Pooled(ctx context.Context, size int, driver, dsn string) (string, error) {
	if l.poolers[size] == nil {
		p, err := pgbouncer.Start(ctx, l.Server, "transaction", size)
		if err != nil {
			return "", err
		}
		l.poolers[size] = p
	}
	dsn = l.poolers[size].DSN(dsn)
	if driver == "pgx" {
		dsn = pgtest.WithParams(dsn, "default_query_exec_mode", "simple_protocol")
	}
	return dsn, nil
}

// Limited is a DSN of the owner of the database of dsn, a role that may have so many
// connections.
func (l *Lab) Limited(ctx context.Context, connections int, dsn, database string) (string, error) {
	role := fmt.Sprintf("limited_%d", connections)
	err := l.Exec(ctx, fmt.Sprintf(`DO $$ BEGIN
		CREATE ROLE %[1]s LOGIN PASSWORD 'limited' CONNECTION LIMIT %[2]d;
		EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		ALTER DATABASE %[3]s OWNER TO %[1]s`, role, connections, database))
	return pgtest.WithUser(dsn, role, "limited"), err
}

// Work is what the server did for one database.
type Work struct {
	Statements  int `json:"statements"`
	Connections int `json:"connections"` // that were opened
}

// WorkIn returns what was done in a database so far, by everybody, as far as the
// sessions have told. One that has ended has told everything.
func (l *Lab) WorkIn(ctx context.Context, database string) (w Work, err error) {
	db, err := sql.Open("pgx", l.Server.DSN)
	if err != nil {
		return w, err
	}
	defer db.Close()
	err = db.QueryRowContext(ctx, `SELECT d.sessions, (SELECT coalesce(sum(s.calls), 0)::bigint FROM pg_stat_statements s WHERE s.dbid = d.datid)
		FROM pg_stat_database d WHERE d.datname = $1`, database).Scan(&w.Connections, &w.Statements)
	return w, err
}

// Settle waits until no session is left in a database, for five seconds at most: what
// hangs there is ended with the database. A pooler keeps its sessions, whose work is
// told a second after it, at the latest.
func (l *Lab) Settle(ctx context.Context, database string, pooled bool) error {
	if pooled {
		time.Sleep(time.Second)
		return nil
	}
	db, err := sql.Open("pgx", l.Server.DSN)
	if err != nil {
		return err
	}
	defer db.Close()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var n int
		err := db.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", database).Scan(&n)
		if err != nil || n == 0 {
			return err
		}
	}
	return nil
}

// ErrorLines is how many lines of the server's log say ERROR or FATAL.
func (l *Lab) ErrorLines(ctx context.Context) (int, error) {
	log, err := l.Server.Log(ctx)
	return strings.Count(log, "ERROR:") + strings.Count(log, "FATAL:"), err
}

// Pool opens a pool that may have so many connections, and keeps all of them; 0 is no
// limit.
func Pool(driver, dsn string, connections int) (*sql.DB, error) {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(max(connections, 2))
	return db, nil
}

// Database is a fresh one.
type Database struct {
	Name, DSN string
	Drop      func()
}

// Database creates one.
func (l *Lab) Database(ctx context.Context) (Database, error) {
	dsn, drop, err := l.Server.CreateDatabase(ctx, "bench")
	if err != nil {
		return Database{}, err
	}
	name := dsn[strings.LastIndex(dsn, "/")+1:]
	name, _, _ = strings.Cut(name, "?")
	return Database{Name: name, DSN: dsn, Drop: drop}, nil
}

// Machine says where and when something was measured.
type Machine struct {
	Date       string            `json:"date"`
	CPUs       int               `json:"cpus"`
	CPU        string            `json:"cpu"`
	Go         string            `json:"go"`
	PostgreSQL string            `json:"postgresql"`
	PgBouncer  string            `json:"pgbouncer"`
	Versions   map[string]string `json:"versions"` // by module path
}

// Machine describes this one.
func (l *Lab) Machine() Machine {
	m := Machine{
		Date: time.Now().UTC().Format(time.DateOnly), CPUs: runtime.NumCPU(), CPU: cpuName(),
		Go: strings.TrimPrefix(runtime.Version(), "go"), PostgreSQL: l.Server.Version, PgBouncer: bouncerVersion(), Versions: map[string]string{},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			m.Versions[dep.Path] = strings.TrimPrefix(dep.Version, "v")
		}
	}
	return m
}
