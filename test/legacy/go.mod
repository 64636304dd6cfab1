module github.com/bootlock/bootlock/test/legacy

go 1.25.0

require (
	github.com/XSAM/otelsql v0.44.0 // a driver around another
	github.com/bootlock/bootlock v0.0.0 // what is tested
	github.com/bootlock/bootlock/test v0.0.0 // the suite
	github.com/jackc/pgx/v5 v5.12.0 // the driver within
	github.com/lib/pq v1.12.3 // the oldest release; see below
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel v1.46.0 // indirect
	go.opentelemetry.io/otel/metric v1.46.0 // indirect
	go.opentelemetry.io/otel/trace v1.46.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)

replace github.com/bootlock/bootlock => ../..

// The oldest release: its errors have Get('C') and no SQLState, which came with
// 1.10. A replace, since the parent module requires the current one.
replace github.com/lib/pq => github.com/lib/pq v1.0.0

replace github.com/bootlock/bootlock/test => ..
