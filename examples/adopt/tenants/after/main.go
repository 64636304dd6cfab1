// Command after is the program with the guard. Each schema has locks of its own,
// and four connections are enough for all of them at once.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
	_ "github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/errgroup"
)

func migrate(ctx context.Context, db *sql.DB, tenant string) error {
	for _, m := range []string{
		"CREATE TABLE IF NOT EXISTS %s.users (id bigserial PRIMARY KEY, name text NOT NULL)",
		"CREATE INDEX IF NOT EXISTS users_name ON %s.users (name)",
	} {
		if _, err := db.ExecContext(ctx, fmt.Sprintf(m, tenant)); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	db.SetMaxOpenConns(4)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for i := range 50 {
		tenant := fmt.Sprintf("tenant_%d", i+1)
		g.Go(func() error {
			return schemaguard.Migrate(ctx, db, tenant, func(ctx context.Context, db *sql.DB) error {
				return migrate(ctx, db, tenant)
			})
		})
	}
	if err := g.Wait(); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
