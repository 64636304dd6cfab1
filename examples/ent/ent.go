// Package ent runs ent's automatic migration under the guard.
//
// ent has no lock, so the whole migrate has to be serialized: Serialize. There
// is no UpToDate, since the automatic migration keeps no version to ask for: it
// compares the database with the tables each time.
package ent

import (
	"context"
	"database/sql"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/schema"
	"entgo.io/ent/schema/field"

	"github.com/bootlock/bootlock/schemaguard"
)

// Start is what a program calls before it serves.
func Start(ctx context.Context, db *sql.DB) error {
	return Guard.Ensure(ctx, db, "app", Migrate)
}

// Guard lets one process migrate at a time.
var Guard = schemaguard.Guard{Serialize: true}

// Migrate is what the generated client.Schema.Create(ctx) does.
func Migrate(ctx context.Context, db *sql.DB) error {
	migrate, err := schema.NewMigrate(entsql.OpenDB(dialect.Postgres, db))
	if err != nil {
		return err
	}
	users, posts := tables()
	return migrate.Create(ctx, users, posts)
}

// tables is what ent generates into migrate/schema.go.
func tables() (users, posts *schema.Table) {
	userID := &schema.Column{Name: "id", Type: field.TypeInt, Increment: true}
	users = &schema.Table{
		Name:       "users",
		Columns:    []*schema.Column{userID, {Name: "name", Type: field.TypeString}},
		PrimaryKey: []*schema.Column{userID},
	}
	postID := &schema.Column{Name: "id", Type: field.TypeInt, Increment: true}
	author := &schema.Column{Name: "user_id", Type: field.TypeInt}
	posts = &schema.Table{
		Name:        "posts",
		Columns:     []*schema.Column{postID, {Name: "body", Type: field.TypeString}, author},
		PrimaryKey:  []*schema.Column{postID},
		ForeignKeys: []*schema.ForeignKey{{Symbol: "posts_users", Columns: []*schema.Column{author}, RefTable: users, RefColumns: []*schema.Column{userID}}},
		Indexes:     []*schema.Index{{Name: "posts_user_id", Columns: []*schema.Column{author}}},
	}
	return users, posts
}
