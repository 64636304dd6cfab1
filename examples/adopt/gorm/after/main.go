// Command after is the program with the guard: AutoMigrate takes no lock.
package main

import (
	"context"
	"database/sql"
	"log"
	"os"
	"time"

	"github.com/bootlock/bootlock/schemaguard"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

type User struct {
	ID   uint
	Name string `gorm:"index"`
}

func main() {
	g, err := gorm.Open(postgres.Open(os.Getenv("DATABASE_URL")), &gorm.Config{})
	if err != nil {
		log.Fatal(err)
	}
	db, err := g.DB()
	if err != nil {
		log.Fatal(err)
	}
	db.SetMaxOpenConns(10)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	migrate := func(ctx context.Context, _ *sql.DB) error { return g.WithContext(ctx).AutoMigrate(&User{}) }
	if err := schemaguard.Migrate(ctx, db, "public", migrate); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
