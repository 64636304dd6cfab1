package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bootlock/bootlock/internal/sqlstate"
)

// execFile runs the statements of --bootstrap, and finds out whether one of them
// ended the transaction, and with it the lock: a setting that is local to it is
// gone then.
func execFile(ctx context.Context, tx *sql.Tx, file, text string) error {
	mark := rand.Text()
	if _, err := tx.ExecContext(ctx, "SELECT pg_catalog.set_config('bootlock.bootstrap', '"+mark+"', true)"); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, text); err != nil {
		return at(file, text, err)
	}
	var now sql.NullString
	if err := tx.QueryRowContext(ctx, "SELECT pg_catalog.current_setting('bootlock.bootstrap', true)").Scan(&now); err != nil {
		return err
	}
	if now.String != mark {
		return errors.New("the file ended the transaction, and with it the lock: leave out BEGIN, COMMIT and ROLLBACK")
	}
	return nil
}

// at says in which line of the file the server saw an error. It counts the
// characters of all statements that it was sent at once; where it gives no
// position, such as for a constraint, there is none to tell.
func at(file, text string, err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Position == 0 {
		return err
	}
	before := []rune(text)
	before = before[:min(int(server.Position)-1, len(before))]
	if file == "-" {
		file = "stdin"
	}
	line := strings.Count(string(before), "\n")
	if words := strings.Fields(strings.Split(text, "\n")[line]); server.Code == "42601" && len(words) > 0 && words[0][0] == '\\' {
		err = fmt.Errorf("%s is a command of psql, which can run the file: bootlock run --lock NAME -- psql -f FILE: %w", words[0], err)
	}
	return fmt.Errorf("%s, line %d: %w", file, line+1, err)
}

func isDenied(err error) bool {
	return sqlstate.Of(err) == "42501" && strings.Contains(err.Error(), "GRANT CREATE ON DATABASE")
}

func (e *ensurer) grantSQL(ctx context.Context) string {
	role, database := "ROLE", "DATABASE"
	_ = e.server.DB.QueryRowContext(ctx, "SELECT current_user::pg_catalog.text, pg_catalog.current_database()::pg_catalog.text").Scan(&role, &database)
	return fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", pgx.Identifier{database}.Sanitize(), pgx.Identifier{role}.Sanitize())
}
