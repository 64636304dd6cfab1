package schemaguard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/bridge"
	"github.com/bootlock/bootlock/internal/sqlstate"
	"github.com/bootlock/bootlock/internal/waiting"
)

// onceTable has a row for each name of Once that has run.
const onceTable = "bootlock_once"

// maxOnce is how many bytes a name of Once may have.
const maxOnce = 255

func checkOnce(name string) error {
	if len(name) > maxOnce {
		return fmt.Errorf("the name of Once has %d bytes; at most %d are allowed", len(name), maxOnce)
	}
	for _, r := range name {
		if r < ' ' || r > '~' || r == '\'' || r == '\\' { // no escape is safe on every server and in every encoding
			return fmt.Errorf("the name of Once has the character %q: only printable ASCII without ' and \\ is allowed", r)
		}
	}
	return nil
}

// once reports whether migrate runs once, as far as a question says.
func (e *ensurer) once() bool { return e.Once != "" || e.UpToDate != nil }

func (e *ensurer) onceTable() string { return quoteIdent(e.schema) + "." + onceTable }

// createOnceSQL creates the table, if there is a name for it. Everybody may read it: a
// process that only awaits the migration has no other right.
func (e *ensurer) createOnceSQL() string {
	if e.Once == "" {
		return ""
	}
	table := e.onceTable()
	create := "CREATE TABLE IF NOT EXISTS " + table + ` (name pg_catalog.text COLLATE "C" PRIMARY KEY, at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now())` +
		"; GRANT SELECT ON " + table + " TO PUBLIC"
	if e.Owner != "" {
		create += "; ALTER TABLE " + table + " OWNER TO " + quoteIdent(e.Owner)
	}
	return create
}

// tableSQL affects one row if the table is there and this role has the right to it.
func (e *ensurer) tableSQL(right string) string {
	return "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace" +
		" WHERE n.nspname OPERATOR(pg_catalog.=) " + quoteLiteral(e.schema) + " AND c.relname OPERATOR(pg_catalog.=) '" + onceTable + "'" +
		" AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, '" + right + "')"
}

// errNoTable stands for SQLSTATE 42P01 where the catalog was asked instead.
var errNoTable = errors.New("the table " + onceTable + " does not exist yet, or this role may not read it yet")

// hasRun looks for the row. If that failed before, it looks into the catalog first,
// since each failure writes a line to the server's log.
func (e *ensurer) hasRun(ctx context.Context) (bool, error) {
	if e.failedOnce {
		if n, err := bounded.Exec(ctx, e.rowDB, e.tableSQL("SELECT")); err != nil || n == 0 {
			return false, cmp.Or(err, errNoTable)
		}
	}
	n, err := bounded.Exec(ctx, e.rowDB, "SELECT 1 FROM "+e.onceTable()+" WHERE name OPERATOR(pg_catalog.=) '"+e.Once+"'")
	e.table, e.failedOnce = err == nil, err != nil
	return n > 0, err
}

// checkRecord fails if this role cannot record that migrate has run.
func (e *ensurer) checkRecord(ctx context.Context) error {
	n, err := bounded.Exec(ctx, e.lockDB, e.tableSQL("INSERT")+" AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off'")
	if err == nil && n == 0 {
		return fmt.Errorf("this session cannot record in %s that migrate has run: create the table once as the owner of the schema, or GRANT INSERT on it; or lift default_transaction_read_only", e.onceTable())
	}
	return err
}

// record writes the row, in the transaction of the lock. If migrate dropped the table,
// with its schema perhaps, it is made again.
func (e *ensurer) record(ctx context.Context, exec bridge.Exec) error {
	n, err := exec(ctx, e.tableSQL("INSERT"))
	if err == nil && n == 0 {
		e.table = false
		_, err = exec(ctx, e.createSQL())
	}
	if err == nil {
		_, err = exec(ctx, "INSERT INTO "+e.onceTable()+" (name) VALUES ('"+e.Once+"') ON CONFLICT DO NOTHING")
	}
	return err
}

// ask asks once whether there is nothing left to migrate. notYet is why the answer is
// no, if something does not exist yet.
func (e *ensurer) ask(ctx context.Context) (done bool, notYet, err error) {
	if e.Once != "" {
		err = waiting.Heard(ctx, func(ctx context.Context) (err error) {
			done, err = e.hasRun(ctx)
			return err
		})
	} else {
		done, err = e.UpToDate(ctx, e.db)
	}
	if e.notYet(err) {
		return false, err, nil
	}
	if waiting.Stale(err) {
		if e.stale++; e.stale > staleTries {
			err = &final{err}
		}
	}
	return done && err == nil, nil, err
}

// staleTries is how often a question is asked again whose prepared statement a pooler
// has lost or mixed up: another server connection may have it, but not for ever.
const staleTries = 10

// final is an error of a pooler that does not pass. It hides its SQLSTATE, by which a
// wait would go on.
type final struct{ err error }

func (f *final) Is(target error) bool { return errors.Is(f.err, target) }

func (f *final) As(target any) bool {
	_, code := target.(*interface{ SQLState() string })
	return !code && errors.As(f.err, target)
}

func (f *final) Error() string {
	return f.err.Error() + "; the pooler does not keep prepared statements apart: use PgBouncer 1.21 or newer, or pgx with default_query_exec_mode=exec"
}

func (e *ensurer) notYet(err error) bool {
	switch sqlstate.Of(err) {
	case "42P01", "3F000", "42703", "42883", "42704": // undefined table, schema, column, function, object
		return true
	case "42501": // a migration may end with a GRANT
		return e.awaits
	}
	return errors.Is(err, errNoTable)
}

// upToDate asks as a step of its own, and waits while there is no connection for it.
func (e *ensurer) upToDate(ctx context.Context, underLock bool) (done bool, err error) {
	if !e.once() {
		return false, nil
	}
	err = e.step(ctx, locktrace.UpToDate, func(ctx context.Context) error {
		return e.patiently(ctx, func(ctx context.Context) (err error) {
			done, _, err = e.ask(ctx)
			if underLock && e.Once != "" && e.rowDB == e.lockDB && !done && err == nil {
				err = e.checkRecord(ctx)
			}
			return err
		})
	})
	return done, e.failed(locktrace.UpToDate, err)
}

// report begins a wait for others to migrate.
func (e *ensurer) report(ctx context.Context) (context.Context, *waiting.Report) {
	key := MigrateKey(e.Key)
	return waiting.Begin(ctx, e.Trace, locktrace.Wait{For: locktrace.Migrate, Key: int64(key), Name: e.schema},
		func(ctx context.Context) ([]advisorylock.Session, error) {
			sessions, err := advisorylock.Sessions(ctx, e.lockDB, key)
			return slices.DeleteFunc(sessions, func(s advisorylock.Session) bool { return !s.Granted }), err
		})
}

// patiently asks again while there is no connection for it or no answer, or a pooler has
// lost a prepared statement.
func (e *ensurer) patiently(ctx context.Context, ask func(ctx context.Context) error) error {
	ctx, report := e.report(ctx)
	defer report.End()
	for {
		took := report.Since()
		err := ask(ctx)
		if !waiting.Short(err) && !waiting.Stale(err) && !errors.Is(err, waiting.ErrSilent) {
			return bounded.Ended(ctx, err)
		}
		report.Because(err)
		if !waiting.Pause(ctx, waiting.Next(report.Waited(), took(), waiting.Short(err))) {
			return bounded.Ended(ctx, err)
		}
	}
}
