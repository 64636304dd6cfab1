// Package bootlock is the root of a module that lets any number of processes
// start at once against one PostgreSQL without losing the race for its schema.
// It has no code of its own:
//
//   - [github.com/bootlock/bootlock/schemaguard] creates a schema and then runs
//     migration code, once per start or once for the whole fleet. Start here.
//   - [github.com/bootlock/bootlock/advisorylock] is what it is built on: any
//     code under an advisory lock, in one transaction or as a lease.
//   - [github.com/bootlock/bootlock/advisorylock/locktrace] watches the steps
//     of both, for tests, logs and spans.
//   - The command bootlock, in cmd/bootlock, is the same for everything that is
//     not Go.
//
// # The order
//
//	connect  begin  lock  create schema  [bootstrap]  commit  release  migrate
//
// One connection is used, once, and none is held during migrate. On failure
// rollback and release take the place of the steps still due. A failed commit
// is not followed by a rollback; its outcome is unknown.
//
// # What is left out, and why
//
// Session-level advisory locks: they survive [database/sql.Conn.Close], which
// gives the connection back to the pool with the lock still held, and strand on
// a server connection behind a pooler.
//
// Locks in a table: nobody can wait for a row without polling it, and it
// survives the crash of its owner.
//
// Migrations: the libraries that do them are many and good; this is what goes
// around them.
//
// Other databases: what is promised here rests on what PostgreSQL does.
package bootlock
