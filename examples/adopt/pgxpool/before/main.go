// Command before works with a pgxpool, and migrates by a loop of statements.
package main

import (
	"context"
	"log"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"
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
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := migrate(ctx, pool); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
