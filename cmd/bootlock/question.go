package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// question is the query of --unless or --until, or that for --once. Its answer is one
// boolean; no row is no, and if unread, what may not be read is too.
type question struct {
	flag, query string
	unread      bool
}

// missing are the errors of a first start: no table, schema, column, function or
// type of that name.
var missing = []string{"42P01", "3F000", "42703", "42883", "42704"}

// ask asks once. If the answer is no because something is missing, why is what.
func (q question) ask(ctx context.Context, db *sql.DB) (yes bool, why string, err error) {
	rows, err := db.QueryContext(ctx, q.query)
	if err == nil {
		defer rows.Close()
		yes, err = q.read(rows)
	}
	var server *pgconn.PgError
	var exit *exitError
	switch {
	case errors.As(err, &server) && (slices.Contains(missing, server.Code) || q.unread && server.Code == "42501"):
		return false, server.Message, nil
	case err == nil || errors.As(err, &exit):
		return yes, "", err
	}
	return false, "", fmt.Errorf("%s: %w", q.flag, err)
}

func (q question) read(rows *sql.Rows) (yes bool, err error) {
	types, err := rows.ColumnTypes()
	switch {
	case err != nil:
		return false, err
	case len(types) != 1:
		return false, q.refuse(fmt.Sprintf("%d columns", len(types)))
	case types[0].DatabaseTypeName() != "BOOL":
		return false, q.refuse("of type " + types[0].DatabaseTypeName())
	case !rows.Next():
		return false, rows.Err()
	}
	var answer sql.NullBool
	if err := rows.Scan(&answer); err != nil {
		return false, err
	}
	switch {
	case !answer.Valid:
		return false, q.refuse("NULL")
	case rows.Next():
		return false, q.refuse("more than one row")
	}
	return answer.Bool, rows.Err()
}

func (q question) refuse(got string) error {
	return usage("%s: the answer must be one boolean, and is %s: write SELECT count(*) > 0 FROM …, or SELECT EXISTS (…)", q.flag, got)
}
