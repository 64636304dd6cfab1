package golangmigrate

import (
	"context"
	"database/sql"
	"embed"
)

//go:embed concurrently slow
var hard embed.FS

// MigrateConcurrently has a CREATE INDEX CONCURRENTLY among its migrations.
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
func MigrateConcurrently(ctx context.Context, db *sql.DB) error {
	return up(ctx, db, hard, "concurrently")
}

// MigrateSlowly has a migration that takes 20 seconds.
//
// With golang-migrate's own lock every other process gives up after 15 seconds
// ("can't acquire database lock") and dies, although nothing is wrong. Under a
// guard they wait for as long as their context allows. Serialize would do;
// UpToDate lets them go on together when the winner is done.
func MigrateSlowly(ctx context.Context, db *sql.DB) error { return up(ctx, db, hard, "slow") }
