module github.com/bootlock/bootlock/test

go 1.25.0

require (
	github.com/BurntSushi/toml v1.6.0 // the list of mutants
	github.com/anishathalye/porcupine v1.3.1 // what histories are checked with
	github.com/bootlock/bootlock v0.0.0 // what is tested
	github.com/jackc/pgx/v5 v5.12.0 // a driver to test with
	github.com/lib/pq v1.12.3 // the other driver
	go.uber.org/goleak v1.3.0 // what calls that gave up on a driver leave behind
)

require (
	github.com/DATA-DOG/go-sqlmock v1.5.2 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)
