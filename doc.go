// Package bootlock is the root of a module that lets any number of processes
// start at once on one PostgreSQL database without losing the race for its
// schema. It contains no code; the packages are:
//
//   - [github.com/bootlock/bootlock/schemaguard] creates a schema and then runs
//     migration code, in one process at a time, in all at once, or once for the
//     whole fleet. Start here.
//   - [github.com/bootlock/bootlock/advisorylock], on which it is built, runs
//     any code under an advisory lock, in one transaction or as a lease.
//   - [github.com/bootlock/bootlock/advisorylock/locktrace] observes the steps
//     of both, for logs, tests, spans and metrics.
//   - [github.com/bootlock/bootlock/schemaguard/schemaguardtest] helps to test
//     start-up code, with sqlmock and on a real server.
//
// The command bootlock, in cmd/bootlock, does the same for programs that are not
// written in Go.
//
// # The order
//
//	connect  begin  lock  create schema  [bootstrap]  commit  release  migrate
//
// One connection is used, once, and none is held during migrate. On failure,
// rollback and release take the place of the steps still due. A failed commit is
// not followed by a rollback.
//
// # What is left out, and why
//
// Session-level advisory locks: they survive [database/sql.Conn.Close], which
// gives the connection back to the pool with the lock still held, and behind a
// pooler they stay on some server connection.
//
// Locks in a table: a row can only be polled, and it survives the crash of its
// owner.
//
// Migrations: many good libraries do them. This module goes around them.
//
// Other databases: the promises made here rest on what PostgreSQL does.
package bootlock
