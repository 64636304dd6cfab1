// Package bootlock is the root of a module with which any number of processes
// can start at once on one PostgreSQL database and create its schema safely. It
// contains no code; the packages are:
//
//   - [github.com/bootlock/bootlock/schemaguard] creates a schema and then runs
//     migration code, in one process at a time, in all at once, or once for the
//     whole fleet. Start here.
//   - [github.com/bootlock/bootlock/advisorylock] runs any code under an advisory
//     lock, in one transaction or as a lease. schemaguard is built on it.
//   - [github.com/bootlock/bootlock/advisorylock/locktrace] observes the steps
//     of both, for logs, tests, spans and metrics.
//   - [github.com/bootlock/bootlock/schemaguard/schemaguardtest] helps to test
//     start-up code, with sqlmock and on a real server.
//
// The command bootlock, in cmd/bootlock, does the same for programs that are not
// written in Go.
//
// # What is left out, and why
//
// Session-level advisory locks survive [database/sql.Conn.Close], which returns
// the connection to the pool with the lock still held, and behind a pooler they
// stay on some server connection.
//
// Locks in a table can only be polled, and a row survives the crash of its owner.
//
// Migrations are left to migration libraries, of which there are many good ones.
//
// Other databases do not behave as PostgreSQL does, on which the promises rest.
package bootlock
