// Package hostile makes a schema that has a look-alike of everything that
// PostgreSQL has in pg_catalog: functions, operators, types, views. Whatever is
// called there, by a statement that does not say which one it means, raises
// [Code].
//
// Anybody who may create in a schema on the search_path of others can do that. It
// takes no search_path out of the ordinary either: where pg_catalog has no
// operator for just these two types, such as oid = int4, another that has is taken
// wherever it is.
package hostile

import (
	"testing"

	"github.com/bootlock/bootlock/test/sqltest"
)

// Code is the SQLSTATE of what is raised.
const Code = "HO000"

// Paths are settings of search_path under which the look-alikes are found, all of
// them or those for which there is nothing better.
var Paths = map[string]string{"in front": "hostile, pg_catalog", "behind": "hostile"}

// Install makes the schema, named hostile, in the database of dsn, where that is
// done by a superuser.
func Install(t *testing.T, dsn string) {
	t.Helper()
	db := sqltest.Open(t, "pgx", dsn)
	sqltest.Exec(t, db, install)
	for what, count := range map[string]string{
		"functions": "SELECT count(*) > 1500 FROM pg_proc WHERE pronamespace = 'hostile'::regnamespace",
		"operators": "SELECT count(*) > 1500 FROM pg_operator WHERE oprnamespace = 'hostile'::regnamespace",
	} {
		if !sqltest.Ask[bool](t, db, count) {
			t.Fatalf("there are few look-alikes of %s; what is tried on them proves little", what)
		}
	}
}

const install = `
SET search_path = pg_catalog;
CREATE SCHEMA hostile;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION hostile.caught() RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION USING ERRCODE = 'HO000', MESSAGE = 'a look-alike was called'; END $f$;
DO $do$
DECLARE
  twin record;
  one text; other text; op text;
  types text[] := ARRAY['text', 'name', 'oid', 'int2', 'int4', 'int8', 'float8', 'numeric', 'bool', 'timestamptz', 'interval', 'regclass'];
BEGIN
  FOR twin IN SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
      FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a') LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION hostile.%I(%s) RETURNS %s LANGUAGE plpgsql AS ''BEGIN PERFORM hostile.caught(); RETURN; END''', twin.proname, twin.arguments,
        CASE WHEN twin.result LIKE 'SETOF %' THEN twin.result ELSE 'void' END);
    EXCEPTION WHEN OTHERS THEN NULL; -- of a kind that only C can have
    END;
  END LOOP;
  FOREACH one IN ARRAY types LOOP
    FOREACH other IN ARRAY types LOOP
      EXECUTE format('CREATE FUNCTION hostile.pair(%s, %s) RETURNS boolean LANGUAGE sql AS ''SELECT hostile.caught()''', one, other);
      FOREACH op IN ARRAY ARRAY['=', '<>', '<', '>', '<=', '>=', '+', '-', '*', '/', '%', '||', '~~', '<<', '|'] LOOP
        EXECUTE format('CREATE OPERATOR hostile.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = hostile.pair)', op, one, other);
      END LOOP;
    END LOOP;
  END LOOP;
  FOREACH one IN ARRAY ARRAY['pg_locks', 'pg_stat_activity', 'pg_database', 'pg_namespace', 'pg_roles', 'pg_settings', 'pg_language'] LOOP
    EXECUTE format('CREATE VIEW hostile.%1$I AS SELECT c.* FROM pg_catalog.%1$I c WHERE hostile.caught()', one);
    EXECUTE format('GRANT SELECT ON hostile.%I TO PUBLIC', one);
  END LOOP;
  FOREACH one IN ARRAY types LOOP
    EXECUTE format('CREATE DOMAIN hostile.%1$I AS pg_catalog.%1$I CHECK (hostile.caught())', one);
  END LOOP;
END $do$;
RESET search_path`
