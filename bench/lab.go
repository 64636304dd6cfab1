package main

import (
	"context"
	"database/sql"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the drivers to measure with
	_ "github.com/lib/pq"

	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

// A lab is a server and the poolers in front of it. It is for one run at a time.
type lab struct {
	server  *pgtest.Server
	admin   *sql.DB // one session
	poolers map[int]*pgbouncer.Pooler
	pools   []*sql.DB // to be closed
	driver  string
}

func openLab(ctx context.Context, driver string) (*lab, error) {
	server, err := pgtest.Start(ctx, pgtest.Options{
		Origin: pgtest.OriginLocal,
		Settings: map[string]string{
			"max_connections": "400", "fsync": "off", "jit": "off",
			"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.max": "50000",
		},
	})
	if err != nil {
		return nil, err
	}
	l := &lab{server: server, poolers: map[int]*pgbouncer.Pooler{}, driver: driver}
	if l.admin, err = sql.Open("pgx", server.DSN); err == nil {
		l.admin.SetMaxOpenConns(1)
		_, err = l.admin.ExecContext(ctx, "CREATE EXTENSION pg_stat_statements; "+
			"CREATE ROLE limited LOGIN PASSWORD 'limited' CONNECTION LIMIT 20; GRANT CREATE ON DATABASE postgres TO limited")
	}
	if err != nil {
		_ = server.Stop()
		return nil, err
	}
	return l, nil
}

func (l *lab) close() {
	for _, p := range l.poolers {
		p.Stop()
	}
	for _, db := range l.pools {
		db.Close()
	}
	l.admin.Close()
	_ = l.server.Stop()
}

// about says when and on what the figures were measured.
func (l *lab) about() string {
	pooler, _ := exec.Command("pgbouncer", "--version").Output()
	line, _, _ := strings.Cut(string(pooler), "\n")
	return fmt.Sprintf("%s, %d cores, Go %s, PostgreSQL %s, %s", time.Now().UTC().Format(time.DateOnly),
		runtime.NumCPU(), strings.TrimPrefix(runtime.Version(), "go"), l.server.Version, line)
}

// A place is a way to the server. The zero place is a direct connection.
type place struct {
	pool    int  // server connections of the PgBouncer between
	limited bool // as a role that may have 20 connections
}

func (p place) String() string {
	switch {
	case p.pool > 0:
		return fmt.Sprintf("PgBouncer %d", p.pool)
	case p.limited:
		return "limit of 20"
	}
	return "direct"
}

// blocking returns run, but nil behind a pooler: a lock that blocks cannot work there.
func (p place) blocking(run runnable) runnable {
	if p.pool > 0 {
		return nil
	}
	return run
}

// direct marks the sessions that end with their process; those of a pooler stay.
const direct = "bench, direct"

// fresh clears the database and returns a DSN for p.
func (l *lab) fresh(ctx context.Context, p place, driver string) (string, error) {
	dsn, err := l.dsn(ctx, p, driver)
	if err == nil {
		err = l.clear(ctx)
	}
	return dsn, err
}

// dsn returns a DSN in which pgx prepares nothing: PgBouncer before 1.21 loses
// prepared statements.
func (l *lab) dsn(ctx context.Context, p place, driver string) (string, error) {
	dsn := l.server.DSN
	if driver == "pgx" {
		dsn = pgtest.WithParams(dsn, "default_query_exec_mode", "simple_protocol")
	}
	if p.pool > 0 {
		if l.poolers[p.pool] == nil {
			started, err := pgbouncer.Start(ctx, l.server, "transaction", p.pool)
			if err != nil {
				return "", err
			}
			l.poolers[p.pool] = started
		}
		return l.poolers[p.pool].DSN(dsn), nil
	}
	if p.limited {
		dsn = pgtest.WithUser(dsn, "limited", "limited")
	}
	return pgtest.WithParams(dsn, "application_name", direct), nil
}

// prefix begins the name of every schema that is measured with.
const prefix = "fleet_"

// clear waits for the sessions of the run before, drops the schemas, and forgets
// the statements.
func (l *lab) clear(ctx context.Context) error {
	runtime.GC()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for busy := -1; busy != 0; {
		err := l.admin.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND pid <> pg_backend_pid() AND (state <> 'idle' OR application_name = '`+direct+`')`).Scan(&busy)
		if err != nil {
			return fmt.Errorf("waiting for %d sessions of the run before: %w", busy, err)
		}
	}
	var drop string
	err := l.admin.QueryRowContext(ctx, `SELECT coalesce(string_agg(format('DROP SCHEMA %I CASCADE', nspname), ';'), '')
		FROM pg_namespace WHERE starts_with(nspname, '`+prefix+`')`).Scan(&drop)
	if err == nil {
		_, err = l.admin.ExecContext(ctx, drop)
	}
	if err == nil {
		_, err = l.admin.ExecContext(ctx, "SELECT pg_stat_statements_reset()")
	}
	return err
}

// statements is how many were sent since clear, by others than the lab.
func (l *lab) statements(ctx context.Context) (n float64, err error) {
	err = l.admin.QueryRowContext(ctx, "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'").Scan(&n)
	return n, err
}
