// Command before calls gorm's AutoMigrate at its start.
package main

import (
	"log"
	"os"

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
	if err := g.AutoMigrate(&User{}); err != nil {
		log.Fatal(err)
	}
	log.Print("ready")
}
