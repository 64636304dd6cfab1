package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/test/conformance"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/sqltest"
)

// Every promise, where the database or the role is set up in a way that a library
// which was only tried on defaults does not expect.
func TestConformanceOddSettings(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(t *testing.T, driver string) conformance.Target{
		"role, SQL_ASCII": oddRole,
		"DSN, LATIN1":     oddDSN,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachDriver(t, func(t *testing.T, driver string) {
				t.Parallel()
				conformance.Run(t, setup(t, driver))
			})
		})
	}
}

// oddRole is a superuser in whose sessions much is not as usual.
func oddRole(t *testing.T, driver string) conformance.Target {
	dsn := encoded(t, driver, "SQL_ASCII")
	admin := sqltest.Open(t, driver, dsn)
	role := "odd_" + driver
	statements := []string{"CREATE ROLE " + role + " LOGIN SUPERUSER PASSWORD 'odd'"}
	for setting, value := range map[string]string{
		"default_transaction_isolation":  "serializable",
		"default_transaction_deferrable": "on",
		"standard_conforming_strings":    "off",
		"backslash_quote":                "off",
		"DateStyle":                      "SQL, DMY",
		"IntervalStyle":                  "sql_standard",
		"TimeZone":                       "Asia/Kathmandu",
		"bytea_output":                   "escape",
		"plan_cache_mode":                "force_generic_plan",
	} {
		statements = append(statements, fmt.Sprintf("ALTER ROLE %s SET %s = '%s'", role, setting, value))
	}
	for _, statement := range statements {
		sqltest.Exec(t, admin, statement)
	}
	server := sqltest.Open(t, driver, pgtest.Shared(t).DSN)
	t.Cleanup(func() {
		sqltest.Exec(t, admin, "REASSIGN OWNED BY "+role+" TO CURRENT_USER")
		sqltest.Exec(t, server, "DROP ROLE "+role)
	})
	return conformance.Target{Driver: driver, DSN: pgtest.WithUser(dsn, role, "odd"), Admin: dsn}
}

// oddDSN has the timeouts in the DSN, as a service has that wants no statement of
// its own to hang.
func oddDSN(t *testing.T, driver string) conformance.Target {
	dsn := encoded(t, driver, "LATIN1")
	return conformance.Target{Driver: driver, Admin: dsn, DSN: pgtest.WithParams(dsn,
		"statement_timeout", "10s",
		"default_transaction_isolation", "repeatable read",
		// They would end the wait of a library that lets them: the long waits of the
		// suite take a second.
		"lock_timeout", "700ms",
		"idle_in_transaction_session_timeout", "45s",
	)}
}

// encoded is the DSN of a database whose encoding is not UTF8. pgx, other than lib/pq, does
// not ask for UTF8, and without it a name that is not ASCII is taken to be in the
// database's encoding.
func encoded(t *testing.T, driver, encoding string) (dsn string) {
	server := pgtest.Shared(t)
	admin := sqltest.Open(t, driver, server.DSN)
	name := strings.ToLower("odd_" + encoding + "_" + driver)
	sqltest.Exec(t, admin, fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING '%s' LC_COLLATE 'C' LC_CTYPE 'C'", name, encoding))
	t.Cleanup(func() { sqltest.Exec(t, admin, "DROP DATABASE "+name+" WITH (FORCE)") })
	return pgtest.WithParams(server.DSNFor(name), "client_encoding", "UTF8")
}
