package doctor

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ask returns the one text that question selects; no row is an empty one.
func ask(ctx context.Context, db *sql.DB, question string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	var answer sql.NullString
	err := db.QueryRowContext(ctx, question).Scan(&answer)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return answer.String, err
}

// fact asks question; an answer that cannot be had is a finding of its own.
func (d *doctor) fact(ctx context.Context, name, question string) (answer string, ok bool) {
	answer, err := ask(ctx, d.a, question)
	if err != nil {
		d.add(Warn, name, "could not be found out: "+err.Error(), "is this PostgreSQL?")
		return "", false
	}
	return answer, true
}

func (d *doctor) server(ctx context.Context) {
	version, ok := d.fact(ctx, "server", "SELECT pg_catalog.version()")
	if !ok {
		return
	}
	major, level := 0, OK
	if _, err := fmt.Sscanf(version, "PostgreSQL %d", &major); err != nil || strings.Contains(version, "-YB-") {
		d.add(Warn, "server", version, "this is not PostgreSQL itself: what was proved below counts, its documentation does not")
		return
	}
	if major < 13 {
		level = Warn
	}
	d.add(level, "server", version, "tested are PostgreSQL 13 and later")
}

// standby reports whether the pools lead to a standby, and adds whether both
// lead to the same server: a DSN with several hosts may not.
func (d *doctor) standby(ctx context.Context) bool {
	const started = "SELECT pg_catalog.concat(pg_catalog.pg_postmaster_start_time(), ' ', pg_catalog.inet_server_port())"
	first, ok := d.fact(ctx, "one server", started)
	if second, err := ask(ctx, d.b, started); ok && err == nil {
		level, text := OK, "two connections reached the same server"
		if first != second {
			level, text = Fail, "two connections reached two different servers, on which locks do not exclude each other"
		}
		d.add(level, "one server", text, "lead all processes to the primary, such as by target_session_attrs=read-write")
	}
	standby, ok := d.fact(ctx, "primary or standby", "SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.text")
	if !ok {
		return false
	}
	if standby == "true" {
		d.add(Fail, "primary or standby", "this is a standby: a lock taken here does not exclude anybody on the primary, and nothing can be created",
			"connect to the primary, such as by target_session_attrs=read-write; schemaguard.Ensure works here if the schema exists")
		return true
	}
	d.add(OK, "primary or standby", "this is a primary", "")
	return false
}

// pooler finds out whether one connection of the client stays on one session of
// the server. While b has a transaction open on the session that a had before, a
// pooler in transaction mode must give a another one.
func (d *doctor) pooler(ctx context.Context) {
	switch pooled, err := d.switches(ctx); {
	case err != nil:
		d.add(Warn, "pooler", "could not be found out: "+err.Error(), "if a pooler has one server connection only, give it more: the holder of a lock and who waits for it need one each")
	case pooled:
		d.add(OK, "pooler", "there is a pooler in transaction mode: the session changes between transactions. The locks of bootlock live in one transaction each, and need no session", "")
	default:
		d.add(OK, "pooler", "none, or one in session mode: the session stays the same between transactions", "")
	}
}

func (d *doctor) switches(ctx context.Context) (pooled bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	a, err := d.a.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer a.Close()
	const pid = "SELECT pg_catalog.pg_backend_pid()"
	for range 5 {
		var first, other, second int
		if err := a.QueryRowContext(ctx, pid).Scan(&first); err != nil {
			return false, err
		}
		b, err := d.b.BeginTx(ctx, readCommitted)
		if err != nil {
			return false, err
		}
		err = cmp.Or(b.QueryRowContext(ctx, pid).Scan(&other), a.QueryRowContext(ctx, pid).Scan(&second), b.Rollback())
		if err != nil || first == other || first != second {
			return err == nil, err
		}
	}
	return false, nil
}

func (d *doctor) role(ctx context.Context) {
	role, _ := ask(ctx, d.a, "SELECT current_user::pg_catalog.text")
	d.right(ctx, "create schemas",
		"pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')",
		"role "+role+" may create schemas here",
		"role "+role+" may not create schemas here; those that exist are enough for it",
		"GRANT CREATE ON DATABASE to it, or create the schemas once as another role")
	d.right(ctx, "plpgsql",
		"COALESCE((SELECT pg_catalog.has_language_privilege(oid, 'USAGE') FROM pg_catalog.pg_language WHERE lanname OPERATOR(pg_catalog.=) 'plpgsql'), false)",
		"it may use plpgsql, with which those who wait can block on the server for a while",
		"it may not use plpgsql: those who wait ask again and again instead, and learn a little later that a lock is free",
		"GRANT USAGE ON LANGUAGE plpgsql TO it, or CREATE EXTENSION plpgsql")
	d.right(ctx, "see other sessions",
		"pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')",
		"errors name who is in the way, whatever role that is",
		"errors show no more than the process id of a holder with another role",
		"GRANT pg_read_all_stats TO it")
	d.right(ctx, "end other sessions",
		"pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')",
		"it may end a holder with another role, superusers aside",
		"it may end a holder with its own role only",
		"GRANT pg_signal_backend TO it, or leave it to an administrator")
	d.right(ctx, "read only",
		"(NOT pg_catalog.current_setting('default_transaction_read_only')::pg_catalog.bool)",
		"transactions may write",
		"default_transaction_read_only is on: transactions may lock, but nothing can be created with pgx (lib/pq asks for READ WRITE)",
		"lift it for the role that creates the schema")
}

func (d *doctor) right(ctx context.Context, name, has, yes, no, advice string) {
	answer, ok := d.fact(ctx, name, "SELECT "+has+"::pg_catalog.text")
	switch {
	case !ok:
	case answer == "true":
		d.add(OK, name, yes, "")
	default:
		d.add(Warn, name, no, advice)
	}
}

// room is how many connections are left of the limits of the server, the role and the
// database.
func (d *doctor) room(ctx context.Context) {
	const count = "(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_activity(NULL) a WHERE a.usesysid IS NOT NULL AND a.datid IS NOT NULL"
	for _, limit := range []struct{ name, question, where, advice string }{
		{"server connections", "SELECT (pg_catalog.current_setting('max_connections')::pg_catalog.int8 OPERATOR(pg_catalog.-) pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int8 OPERATOR(pg_catalog.-) " +
			count + "))::pg_catalog.text", "on the server", "raise max_connections, or use a pooler"},
		{"role connections", "SELECT (SELECT (r.rolconnlimit OPERATOR(pg_catalog.-) " + count + " AND a.usesysid OPERATOR(pg_catalog.=) r.oid))::pg_catalog.text" +
			" FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER AND r.rolconnlimit OPERATOR(pg_catalog.>=) 0)", "for the role", "ALTER ROLE … CONNECTION LIMIT"},
		{"database connections", "SELECT (SELECT (d.datconnlimit OPERATOR(pg_catalog.-) " + count + " AND a.datid OPERATOR(pg_catalog.=) d.oid))::pg_catalog.text" +
			" FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND d.datconnlimit OPERATOR(pg_catalog.>=) 0)", "for the database", "ALTER DATABASE … CONNECTION LIMIT"},
	} {
		free, ok := d.fact(ctx, limit.name, limit.question)
		if !ok || free == "" && limit.name != "server connections" {
			continue
		}
		level := OK
		if n, err := strconv.Atoi(free); err != nil || n < 10 {
			level = Warn
		}
		d.add(level, limit.name, free+" are free "+limit.where, "many processes that start at once need one each: "+limit.advice)
	}
}
