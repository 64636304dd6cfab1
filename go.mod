module github.com/bootlock/bootlock

go 1.23

require github.com/DATA-DOG/go-sqlmock v1.3.3
