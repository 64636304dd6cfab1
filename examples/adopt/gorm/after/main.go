// Command after is the program with the guard: AutoMigrate takes no lock.
package main

import (
	"context"
	"database/sql"
	"log"
	"os"

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
	if err := schemaguard.Migrate(context.Background(), db, "public", func(context.Context, *sql.DB) error { return g.AutoMigrate(&User{}) }); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
