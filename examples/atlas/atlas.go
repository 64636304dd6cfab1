// Package atlas applies a declarative schema by atlas's Go API, under the guard.
//
// atlas compares the database with the schema wanted and applies the difference;
// what it does by itself takes no lock (its driver has a Lock, whose callers poll
// for it), so the whole migrate has to be serialized: Serialize, or UpToDate,
// which implies it.
package atlas

import (
	"context"
	"database/sql"
	_ "embed"

	"ariga.io/atlas/sql/migrate"
	"ariga.io/atlas/sql/postgres"
	"ariga.io/atlas/sql/schema"

	"github.com/bootlock/bootlock/schemaguard"
)

//go:embed schema.hcl
var file []byte

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard lets one process migrate; the others go on together when it is done.
var Guard = schemaguard.Guard{UpToDate: upToDate}

// upToDate asks atlas for the difference, which only reads. It finds out by
// itself that a schema is not there, and says so without an SQLSTATE.
func upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	_, changes, err := diff(ctx, db)
	if schema.IsNotExistError(err) {
		return false, nil
	}
	return err == nil && len(changes) == 0, err
}

// Migrate is the migration code as it was without the guard. It names no schema
// in its statements, so that the search_path decides.
func Migrate(ctx context.Context, db *sql.DB) error {
	driver, changes, err := diff(ctx, db)
	if err != nil {
		return err
	}
	return driver.ApplyChanges(ctx, changes, func(o *migrate.PlanOptions) { o.SchemaQualifier = new(string) })
}

// diff compares the schema on the search_path with the one wanted.
func diff(ctx context.Context, db *sql.DB) (migrate.Driver, []schema.Change, error) {
	driver, err := postgres.Open(db)
	if err != nil {
		return nil, nil, err
	}
	have, err := driver.InspectSchema(ctx, "", nil)
	if err != nil {
		return nil, nil, err
	}
	want := &schema.Schema{}
	if err := postgres.EvalHCLBytes(file, want, nil); err != nil {
		return nil, nil, err
	}
	want.Name = have.Name
	changes, err := driver.SchemaDiff(have, want)
	return driver, changes, err
}
