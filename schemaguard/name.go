package schemaguard

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/bootlock/bootlock/advisorylock"
)

// KeyFor returns the key under which schema is created: KeyOf("schemaguard:" +
// schema), the same for ever. There is one key per schema, shared by all
// components that use it: with one key per component they would race each other.
func KeyFor(schema string) advisorylock.Key {
	return advisorylock.KeyOf("schemaguard:" + schema)
}

// MigrateKey returns the key under which migrate runs in one process at a time,
// given the key of the schema: KeyOf("schemaguard/migrate:" + key in decimal).
//
// The two differ because the schema's lock is held for milliseconds and that of
// migrate for as long as a migration takes. With one key for both, a process
// that only wants to create the schema would wait for a whole migration.
func MigrateKey(key advisorylock.Key) advisorylock.Key {
	return advisorylock.KeyOf("schemaguard/migrate:" + key.String())
}

// maxName is NAMEDATALEN less one. Longer names are cut by the server, without
// an error: two of them could become one schema with two keys.
const maxName = 63

func (g Guard) check(schema string) error {
	if err := checkName("schema", schema); err != nil {
		return err
	}
	if strings.HasPrefix(schema, "pg_") {
		return errors.New("the schema name starts with pg_, which PostgreSQL keeps for itself")
	}
	if g.Owner != "" {
		if err := checkName("owner", g.Owner); err != nil {
			return err
		}
	}
	if g.Once != "" && g.UpToDate != nil {
		return errors.New("the options Once and UpToDate exclude each other")
	}
	return checkOnce(g.Once)
}

func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the %s name is empty", what)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("the %s name has a NUL byte", what)
	case !utf8.ValidString(name):
		return fmt.Errorf("the %s name is not valid UTF-8", what)
	case len(name) > maxName:
		return fmt.Errorf("the %s name has %d bytes; PostgreSQL would cut it to %d", what, len(name), maxName)
	}
	return nil
}

func (e *ensurer) createSQL() string {
	sql := "CREATE SCHEMA IF NOT EXISTS " + quoteIdent(e.schema)
	if e.Owner != "" {
		sql += " AUTHORIZATION " + quoteIdent(e.Owner)
	}
	if table := e.createOnceSQL(); table != "" && !e.table {
		sql += "; " + table
	}
	return sql
}

// lookSQL affects one row if the schema is there. It asks pg_namespace, since
// information_schema.schemata hides schemas from roles without rights on them,
// and to_regnamespace folds case and reads dots.
func (e *ensurer) lookSQL() string {
	return "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) " + quoteLiteral(e.schema)
}

func quoteIdent(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// quoteLiteral is safe whatever standard_conforming_strings says.
func quoteLiteral(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
