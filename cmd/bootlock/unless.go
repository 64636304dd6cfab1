package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/bootlock/bootlock/internal/sqlstate"
)

// askAgain asks a query of --unless or --until: true if it returns true, or any
// row that is not a single boolean. Where a table, a schema or a function is
// missing the answer is no, since that is what a first start looks like. While
// the server has no connection to give, it is asked again, until ctx ends.
func askAgain(ctx context.Context, db *sql.DB, query string) (bool, error) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		yes, err := askOnce(ctx, db, query)
		switch code := sqlstate.Of(err); {
		case code == "42P01", code == "3F000", code == "42883":
			return false, nil
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case code != "53300" && code != "57P03":
			return yes, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func askOnce(ctx context.Context, db *sql.DB, query string) (yes bool, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	if !rows.Next() {
		return false, rows.Err()
	}
	types, err := rows.ColumnTypes()
	if err != nil {
		return false, err
	}
	if len(types) != 1 || types[0].DatabaseTypeName() != "BOOL" {
		return true, nil
	}
	var answer sql.NullBool
	if err := rows.Scan(&answer); err != nil {
		return false, fmt.Errorf("the answer cannot be read: %w", err)
	}
	return answer.Bool, nil
}
