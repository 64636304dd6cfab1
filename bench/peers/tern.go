package peers

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jackc/tern/v2/migrate"
)

// openTern runs tern itself, with one migration, up and down in turns, in a version
// table of its own: the lock is the same for all tables.
func openTern(ctx context.Context, db *sql.DB) (Lock, func() error, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, nil, err
	}
	var m *migrate.Migrator
	err = conn.Raw(func(c any) (err error) {
		table := fmt.Sprintf("public.schema_version_%d", rand.Uint64())
		m, err = migrate.NewMigratorEx(ctx, c.(*stdlib.Conn).Conn(), table, &migrate.MigratorOptions{DisableTx: true})
		return err
	})
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	var run func(ctx context.Context, _ *pgx.Conn) error
	fn := func(ctx context.Context, conn *pgx.Conn) error { return run(ctx, conn) }
	m.Migrations = []*migrate.Migration{{Sequence: 1, Name: "fn", UpFunc: fn, DownFunc: fn}}
	var version int32
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		run = func(ctx context.Context, _ *pgx.Conn) error { return fn(ctx) }
		if err := m.MigrateTo(ctx, 1-version); err != nil {
			return err
		}
		version = 1 - version
		return nil
	}, conn.Close, nil
}
