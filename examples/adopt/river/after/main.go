// Command after is the program with the guard: rivermigrate takes no lock. The guard
// sees the pgxpool as an *sql.DB, which has to know the size of the pool: one
// connection keeps the lock while migrate works with the others.
package main

import (
	"context"
	"database/sql"
	"log"
	"os"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	db := stdlib.OpenDBFromPool(pool)
	db.SetMaxOpenConns(int(pool.Config().MaxConns)) // which database/sql cannot see
	if err := schemaguard.Migrate(ctx, db, "public", func(ctx context.Context, _ *sql.DB) error { return migrate(ctx, pool) }); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
