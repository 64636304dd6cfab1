// Package river runs River's migrations, over database/sql, under the guard.
//
// rivermigrate has no lock, so the whole migrate has to be serialized:
// Serialize, or UpToDate, which implies it. Package riverpgx does the same over
// a pgxpool.
package river

import (
	"context"
	"database/sql"

	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/bootlock/bootlock/schemaguard"
)

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard lets one process migrate; the others go on together when it is done.
var Guard = schemaguard.Guard{UpToDate: upToDate}

// upToDate asks River itself: Validate only reads.
func upToDate(ctx context.Context, db *sql.DB) (bool, error) {
	migrator, err := rivermigrate.New(riverdatabasesql.New(db), nil)
	if err != nil {
		return false, err
	}
	result, err := migrator.Validate(ctx, nil)
	if err != nil {
		return false, err
	}
	return result.OK, nil
}

// Migrate is the README's.
func Migrate(ctx context.Context, db *sql.DB) error {
	migrator, err := rivermigrate.New(riverdatabasesql.New(db), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}
