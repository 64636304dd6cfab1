// Package concurrently runs golang-migrate with a CREATE INDEX CONCURRENTLY
// among its migrations.
//
// With golang-migrate's own lock this does not work: the others block in
// pg_advisory_lock, each with a snapshot that CREATE INDEX CONCURRENTLY waits
// for, while they wait for the process that runs it. PostgreSQL ends it with
// 40P01 deadlock detected, and the version stays dirty. With the lock on one
// connection and the migrations on another, as with a pg_advisory_lock around
// the whole of migrate, it does not even see the cycle, and all hang for ever.
//
// So the whole migrate has to be serialized, by a guard whose waiters do not
// keep a snapshot: Serialize, or UpToDate, which implies it. What holds for
// golang-migrate here holds for every library.
package concurrently

import (
	"context"
	"database/sql"
	"embed"

	"github.com/bootlock/bootlock/examples/golangmigrate"
)

//go:embed migrations
var files embed.FS

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard has an UpToDate.
var Guard = golangmigrate.Guard

// Migrate is the migration code as it was without the guard.
func Migrate(ctx context.Context, db *sql.DB) error { return golangmigrate.Up(ctx, db, files) }
