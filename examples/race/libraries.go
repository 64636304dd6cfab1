package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bootlock/bootlock/examples/atlas"
	"github.com/bootlock/bootlock/examples/bun"
	"github.com/bootlock/bootlock/examples/ent"
	"github.com/bootlock/bootlock/examples/golangmigrate"
	"github.com/bootlock/bootlock/examples/goose"
	"github.com/bootlock/bootlock/examples/gorm"
	"github.com/bootlock/bootlock/examples/plainsql"
	"github.com/bootlock/bootlock/examples/river"
	"github.com/bootlock/bootlock/examples/riverpgx"
	"github.com/bootlock/bootlock/examples/sqlmigrate"
	"github.com/bootlock/bootlock/examples/tern"
	"github.com/bootlock/bootlock/schemaguard"
)

// library is one of the examples, over one driver.
type library struct {
	name   string
	folder string // of the example
	module string // whose version the table shows
	driver string // of database/sql

	guard   schemaguard.Guard
	migrate func(ctx context.Context, db *sql.DB) error
	connect func(ctx context.Context, dsn string) (*pool, error) // nil: sql.Open

	ownLock bool     // it has a lock that its users wait for
	want    []string // tables and indexes that a start must leave behind
	doubt   string   // a query for the number of rows that tell of a half-done migration

	// The second driver of a library gets few rounds: it shows that the guard
	// works with both.
	second bool

	// A special case is not one of the libraries to compare: it shows a
	// migration that is hard on locks.
	special string
	timeout time.Duration
}

type pool struct {
	db      *sql.DB
	guard   schemaguard.Guard
	migrate func(ctx context.Context, db *sql.DB) error
	close   func()
}

const (
	pq  = "postgres"
	pgx = "pgx"
)

// lockers are goose's own, which a Provider can be given.
const lockers = "with its "

const dirty = "SELECT count(*) FROM schema_migrations WHERE dirty"

var (
	tables      = []string{"users", "posts", "posts_user_id"}
	riverTables = []string{"river_job", "river_leader", "river_queue", "river_notification", "river_migration"}
)

var libraries = func() []library {
	list := []library{
		{
			name: "golang-migrate", folder: "golangmigrate", module: "github.com/golang-migrate/migrate/v4", driver: pq,
			guard: golangmigrate.Guard, migrate: golangmigrate.Migrate, ownLock: true, want: tables, doubt: dirty,
		},
		{
			name: "tern", folder: "tern", module: "github.com/jackc/tern/v2", driver: pgx,
			guard: tern.Guard, migrate: tern.Migrate, ownLock: true, want: tables,
		},
		{
			name: "goose", folder: "goose", module: "github.com/pressly/goose/v3", driver: pgx,
			guard: goose.Guard, migrate: goose.Migrate, want: tables,
		},
		{
			name: "River", folder: "riverpgx", module: "github.com/riverqueue/river", driver: pgx + "pool",
			connect: connectRiver, guard: riverpgx.Guard(nil), want: riverTables,
		},
		{
			name: "River", folder: "river", module: "github.com/riverqueue/river", driver: pgx,
			guard: river.Guard, migrate: river.Migrate, want: riverTables,
		},
		{
			name: "gorm AutoMigrate", folder: "gorm", module: "gorm.io/gorm", driver: pgx,
			guard: gorm.Guard, migrate: gorm.Migrate, want: []string{"users", "posts", "idx_posts_user_id"},
		},
		{
			name: "ent", folder: "ent", module: "entgo.io/ent", driver: pgx,
			guard: ent.Guard, migrate: ent.Migrate, want: tables,
		},
		{
			name: "atlas", folder: "atlas", module: "ariga.io/atlas", driver: pgx,
			guard: atlas.Guard, migrate: atlas.Migrate, want: tables,
		},
		{
			name: "bun", folder: "bun", module: "github.com/uptrace/bun", driver: pgx,
			guard: bun.Guard, migrate: bun.Migrate, want: tables,
		},
		{
			name: "sql-migrate", folder: "sqlmigrate", module: "github.com/rubenv/sql-migrate", driver: pq,
			guard: sqlmigrate.Guard, migrate: sqlmigrate.Migrate, want: tables,
		},
		{
			name: "plain SQL", folder: "plainsql", driver: pq,
			guard: plainsql.Guard, migrate: plainsql.Migrate, want: tables,
		},
	}
	for _, l := range list {
		other := map[string]string{pq: pgx, pgx: pq}[l.driver]
		if other == "" || l.folder == "tern" || l.folder == "gorm" { // both speak to pgx itself
			continue
		}
		l.driver, l.second = other, true
		list = append(list, l)
	}
	return append(list,
		library{
			name: "goose", folder: "goosesession", module: "github.com/pressly/goose/v3", driver: pgx,
			guard: goose.Guard, migrate: goose.MigrateWithSessionLocker, ownLock: true, want: tables,
			special: lockers + "session locker", timeout: 2 * time.Minute,
		},
		library{
			name: "goose", folder: "goosetable", module: "github.com/pressly/goose/v3", driver: pgx,
			guard: goose.Guard, migrate: goose.MigrateWithTableLocker, ownLock: true, want: tables,
			special: lockers + "table locker", timeout: 2 * time.Minute,
		},
		library{
			name: "golang-migrate", folder: "concurrently", module: "github.com/golang-migrate/migrate/v4", driver: pq,
			guard: golangmigrate.Guard, migrate: golangmigrate.MigrateConcurrently, want: tables, doubt: dirty,
			special: "CREATE INDEX CONCURRENTLY", timeout: 10 * time.Second,
		},
		library{
			name: "golang-migrate", folder: "slow", module: "github.com/golang-migrate/migrate/v4", driver: pq,
			guard: golangmigrate.Guard, migrate: golangmigrate.MigrateSlowly, ownLock: true, want: []string{"users", "users_name"}, doubt: dirty,
			special: "a migration of 20 s", timeout: 90 * time.Second,
		},
	)
}()

func (l library) id() string { return l.folder + "/" + l.driver }

func (l library) open(ctx context.Context, dsn string) (*pool, error) {
	if l.connect != nil {
		return l.connect(ctx, dsn)
	}
	db, err := sql.Open(l.driver, dsn)
	if err != nil {
		return nil, err
	}
	return &pool{db: db, guard: l.guard, migrate: l.migrate, close: func() { _ = db.Close() }}, nil
}

func connectRiver(ctx context.Context, dsn string) (*pool, error) {
	p, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return nil, err
	}
	db := riverpgx.DB(p)
	return &pool{
		db:      db,
		guard:   riverpgx.Guard(p),
		migrate: func(ctx context.Context, _ *sql.DB) error { return riverpgx.Migrate(ctx, p) },
		close:   func() { _ = db.Close(); p.Close() },
	}, nil
}
