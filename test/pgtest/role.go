package pgtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// WeakRole has no right but to connect. Its name and password are the same
// everywhere, so that a pooler can be told of it; who needs it creates it.
const (
	WeakRole     = "bootlock_weak"
	WeakPassword = "weak"
)

// RolePassword is the password of every role that [Server.NewRole] creates.
const RolePassword = "boot lock"

// NewRole creates a role that may log in and nothing else, with a name that has to be
// quoted, and returns the name. The role is dropped at the end of the test. Call it
// before the database is created: a role that owns something there cannot be dropped.
func (s *Server) NewRole(tb testing.TB) string {
	tb.Helper()
	name := `Role "` + random() + `"`
	quoted := pgx.Identifier{name}.Sanitize()
	if err := s.exec(context.Background(), "CREATE ROLE "+quoted+" LOGIN PASSWORD '"+RolePassword+"'"); err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if err := s.exec(context.Background(), "DROP ROLE "+quoted); err != nil {
			tb.Fatalf("%v", err)
		}
	})
	return name
}
