package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/schemaguard"
)

// keyInfo is a key as people and programs need it. A bigint key shows in pg_locks
// as its high half in classid, its low half in objid, and objsubid 1.
type keyInfo struct {
	Name    string           `json:"name"`
	Key     advisorylock.Key `json:"key,string"`
	ClassID uint32           `json:"classid"`
	ObjID   uint32           `json:"objid"`
	SQL     string           `json:"sql"`
}

func newKeyInfo(name string, key advisorylock.Key, sql string) keyInfo {
	return keyInfo{Name: name, Key: key, ClassID: uint32(uint64(key) >> 32), ObjID: uint32(uint64(key)), SQL: "SELECT " + sql}
}

func (a *app) keyCommand() *cobra.Command {
	var schema string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "key NAME | key --schema NAME",
		Short: "The key of a lock, and the SQL that computes it",
		Long: `key shows the advisory lock that a name stands for: as the bigint that the
pg_advisory functions take, as the classid and objid that pg_locks shows, and
as the SQL that computes it. No database is asked.

With --schema it is the two locks of a schema: the one it is created under, and
the one that COMMAND runs under with bootlock ensure --serialize.

With -q it is the bigint alone.`,
		Example: `  bootlock key graphile_worker
  bootlock key --schema app
  psql -c "SELECT pg_try_advisory_lock($(bootlock key -q nightly))"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := keysOf(args, schema)
			if err != nil {
				return err
			}
			return a.showKeys(keys, asJSON)
		},
	}
	cmd.Flags().StringVar(&schema, "schema", "", "the schema whose keys to show")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, one object a line")
	return cmd
}

func keysOf(args []string, schema string) ([]keyInfo, error) {
	switch {
	case len(args) == 1 && schema == "":
		name := args[0]
		if err := checkName("NAME", name); err != nil {
			return nil, err
		}
		return []keyInfo{newKeyInfo("lock "+name, advisorylock.KeyOf(name), keySQL(literal(name)))}, nil
	case len(args) == 0 && schema != "":
		if err := checkName("--schema", schema); err != nil {
			return nil, err
		}
		key := schemaguard.KeyFor(schema)
		sql := keySQL(literal("schemaguard:" + schema))
		return []keyInfo{
			newKeyInfo("schema "+schema, key, sql),
			newKeyInfo("migrate "+schema, schemaguard.MigrateKey(key), keySQL("'schemaguard/migrate:' || "+sql)),
		}, nil
	}
	return nil, usage("key takes a NAME or --schema NAME")
}

func keySQL(expression string) string {
	return "('x' || left(encode(sha256(convert_to(" + expression + ", 'UTF8')), 'hex'), 16))::bit(64)::bigint"
}

// literal is safe whatever standard_conforming_strings says.
func literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

func (a *app) showKeys(keys []keyInfo, asJSON bool) error {
	for i, k := range keys {
		switch {
		case asJSON:
			line, err := json.Marshal(k)
			if err != nil {
				return &exitError{code: exitOwn, err: err}
			}
			fmt.Fprintf(a.out, "%s\n", line)
		case a.log.quiet:
			fmt.Fprintln(a.out, k.Key)
		default:
			if i > 0 {
				fmt.Fprintln(a.out)
			}
			fmt.Fprintf(a.out, "%s\n  key      %d\n  classid  %d\n  objid    %d\n  sql      %s\n", k.Name, k.Key, k.ClassID, k.ObjID, k.SQL)
		}
	}
	return nil
}
