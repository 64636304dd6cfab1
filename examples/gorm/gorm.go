// Package gorm runs gorm's AutoMigrate under the guard.
//
// AutoMigrate has no lock, so the whole migrate has to be serialized:
// Serialize. There is no UpToDate, since AutoMigrate keeps no version to ask
// for: it compares every table with its model each time.
package gorm

import (
	"context"
	"database/sql"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/bootlock/bootlock/schemaguard"
)

// These are models like those in gorm's guides.
type (
	// User has posts.
	User struct {
		ID    uint
		Name  string
		Posts []Post
	}
	// Post is of one user.
	Post struct {
		ID     uint
		UserID uint `gorm:"index"`
		Body   string
	}
)

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard lets one process migrate at a time.
var Guard = schemaguard.Guard{Serialize: true}

// Migrate is the README's, over an existing *sql.DB of either driver.
func Migrate(ctx context.Context, db *sql.DB) error {
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{})
	if err != nil {
		return err
	}
	return g.WithContext(ctx).AutoMigrate(&User{}, &Post{})
}
