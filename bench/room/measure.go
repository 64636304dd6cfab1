package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/bootlock/bootlock/bench/stats"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
)

// statements is how many short ones the migration has.
const statements = 20

type row struct {
	name   string
	dsn    string
	n      int
	mode   string
	driver string
	work   time.Duration
	rounds int
	old    bool // worth measuring with the old build too
}

// measure starts all fleets and prints the table.
func measure(ctx context.Context, old string, short bool, only string) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	server, err := pgtest.Start(ctx, pgtest.Options{
		Origin:   pgtest.OriginLocal,
		Settings: map[string]string{"max_connections": "400", "fsync": "off"},
	})
	if err != nil {
		return err
	}
	defer server.Stop() //nolint:errcheck // the measurement is over
	self, err := os.Executable()
	if err != nil {
		return err
	}
	t := table.NewWriter()
	t.SetOutputMirror(os.Stdout)
	t.AppendHeader(table.Row{"connections", "processes", "mode", "driver", "all ready", "winner's migrate", "alone", "failures", "first version: all ready", "failures"})
	var rows []row
	for _, size := range pools(short) {
		bouncer, err := pgbouncer.Start(ctx, server, "transaction", size)
		if err != nil {
			return err
		}
		defer bouncer.Stop()
		for _, n := range fleets(short) {
			for _, mode := range []string{"Serialize", "UpToDate"} {
				rows = append(rows, row{fmt.Sprintf("PgBouncer, %d", size), bouncer.DSN(server.DSN), n, mode, driverFor(n), 0, rounds(n), n == 40})
			}
		}
	}
	limited, err := limitedRole(ctx, server.DSN)
	if err != nil {
		return err
	}
	for _, n := range []int{60, 300} {
		for _, mode := range []string{"Serialize", "UpToDate"} {
			rows = append(rows, row{"role limit of 20", limited, n, mode, "pgx", 0, rounds(n), n == 60})
		}
	}
	for _, n := range []int{2, 8, 32, 90} {
		for _, mode := range []string{"Serialize", "UpToDate"} {
			rows = append(rows, row{"direct", server.DSN, n, mode, "pgx", 0, 9, true})
			if !short {
				rows = append(rows, row{"direct, 2 s of work", server.DSN, n, mode, "pgx", 2 * time.Second, 3, true})
			}
		}
	}
	for _, r := range rows {
		if !wanted.MatchString(fmt.Sprintf("%s, %d, %s", r.name, r.n, r.mode)) {
			continue
		}
		line, err := r.measure(ctx, server, self, old)
		if err != nil {
			return err
		}
		t.AppendRow(line)
		fmt.Fprintln(os.Stderr, line...)
	}
	t.RenderMarkdown()
	return nil
}

func pools(short bool) []int {
	if short {
		return []int{2, 4}
	}
	return []int{2, 3, 4, 20}
}

func fleets(short bool) []int {
	if short {
		return []int{40, 200}
	}
	return []int{40, 200, 1000}
}

func rounds(n int) int {
	if n > 100 {
		return 1
	}
	return 3
}

// driverFor alternates: a table with every row for each would say nothing more.
func driverFor(n int) string {
	if n == 200 {
		return "postgres"
	}
	return "pgx"
}

func (r row) measure(ctx context.Context, server *pgtest.Server, self, old string) (table.Row, error) {
	alone, err := r.fleet(ctx, server, self, 1)
	if err != nil {
		return nil, err
	}
	var ready, winner, before []time.Duration
	failed, failedBefore, why := 0, 0, ""
	for range r.rounds {
		if old != "" && r.old && len(before) < r.rounds && (failedBefore == 0 || len(before) == 0) {
			out, err := r.fleet(ctx, server, old, r.n)
			if err != nil {
				return nil, err
			}
			before = append(before, out.Ready)
			failedBefore += out.Failed
		}
		out, err := r.fleet(ctx, server, self, r.n)
		if err != nil {
			return nil, err
		}
		ready, winner = append(ready, out.Ready), append(winner, out.Migrate)
		failed += out.Failed
		if out.Failed > 0 {
			why = " (" + out.Error + ")"
		}
		if out.Migrated != 1 {
			why += fmt.Sprintf(" (%d migrated)", out.Migrated)
		}
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
	line := table.Row{r.name, r.n, r.mode, r.driver, ms(stats.Median(ready)), ms(stats.Median(winner)), ms(alone.Migrate), fmt.Sprintf("%d of %d%s", failed, r.n*r.rounds, why), "", ""}
	if len(before) > 0 {
		line[8], line[9] = ms(stats.Median(before)), fmt.Sprintf("%d of %d", failedBefore, r.n*len(before))
	}
	return line, nil
}

// limit is when a fleet is given up. The first version would wait for it.
const limit = time.Minute

// fleet starts one fleet on a schema that is not there.
func (r row) fleet(ctx context.Context, server *pgtest.Server, binary string, n int) (outcome, error) {
	db, err := sql.Open("pgx", server.DSN)
	if err != nil {
		return outcome{}, err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "DROP SCHEMA IF EXISTS fleet CASCADE"); err != nil {
		return outcome{}, err
	}
	return run(ctx, binary, fleet{
		Driver: r.driver, DSN: simple(r.driver, r.dsn), N: n, Mode: r.mode,
		Statements: statements, Work: r.work, Limit: limit,
	})
}

// simple is dsn for a driver that prepares nothing: old versions of PgBouncer do
// not keep prepared statements, which is not what is measured here.
func simple(driver, dsn string) string {
	if driver == "pgx" {
		return pgtest.WithParams(dsn, "default_query_exec_mode", "simple_protocol")
	}
	return dsn
}

// limitedRole returns the DSN of a role that may have 20 connections.
func limitedRole(ctx context.Context, dsn string) (string, error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return "", err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `DROP ROLE IF EXISTS room; CREATE ROLE room LOGIN PASSWORD 'room' CONNECTION LIMIT 20;
		GRANT CREATE ON DATABASE postgres TO room`)
	if err != nil {
		return "", err
	}
	return pgtest.WithUser(dsn, "room", "room"), nil
}
