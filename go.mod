module github.com/bootlock/bootlock

// The lease resets timers without draining them, which 1.23 made safe.
go 1.23

require github.com/DATA-DOG/go-sqlmock v1.3.3
