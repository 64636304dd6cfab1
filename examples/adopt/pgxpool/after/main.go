// Command after is the program with the guard. The guard sees the pool as an
// *sql.DB, which has to know the size of the pool: one connection keeps the lock
// while migrate works with the others.
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
)

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	for _, m := range []string{
		"CREATE TABLE IF NOT EXISTS users (id bigserial PRIMARY KEY, name text NOT NULL)",
		"CREATE INDEX IF NOT EXISTS users_name ON users (name)",
	} {
		if _, err := pool.Exec(ctx, m); err != nil {
			return err
		}
	}
	return nil
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
