package storm

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/schemaguard"
)

// Ways of bootlock, besides the peers'.
const (
	Serialize = "bootlock, Serialize"
	UpToDate  = "bootlock, UpToDate"
)

// Ways returns all ways to start: those of bootlock and the peers', whose locks are
// held while the schema is created and the migration runs.
func Ways() []string {
	ways := []string{UpToDate, Serialize}
	for _, p := range peers.All() {
		if !p.Own {
			ways = append(ways, p.Name)
		}
	}
	return ways
}

// Own reports whether a way is bootlock's.
func Own(way string) bool { return way == Serialize || way == UpToDate }

// start is what each process does.
func start(ctx context.Context, way string, db *sql.DB, m *migration) error {
	switch way {
	case Serialize:
		return schemaguard.Guard{Serialize: true}.Ensure(ctx, db, "fleet", m.run)
	case UpToDate:
		return schemaguard.Guard{UpToDate: upToDate}.Ensure(ctx, db, "fleet", m.run)
	}
	lock, closed, err := peers.ByName(way).Open(ctx, db)
	if err != nil {
		return err
	}
	defer closed() //nolint:errcheck // the process has its schema
	return lock(ctx, func(ctx context.Context) error { return m.run(ctx, db) })
}

// statements is how many short ones a migration has.
const statements = 20

// migration is one of short statements, with a look at what is done already, as every
// migration library has. It takes work, and what the statements themselves take.
type migration struct {
	work time.Duration
	took time.Duration
}

func (m *migration) run(ctx context.Context, db *sql.DB) error {
	if done, err := upToDate(ctx, db); err == nil && done {
		return nil
	}
	began := time.Now()
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS fleet"); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS fleet.done (n int PRIMARY KEY)"); err != nil {
		return err
	}
	for n := range statements {
		_, err := db.ExecContext(ctx, fmt.Sprintf("INSERT INTO fleet.done SELECT %d FROM pg_sleep(%f)", n, m.work.Seconds()/statements))
		if err != nil {
			return err
		}
	}
	m.took = time.Since(began)
	return nil
}

func upToDate(ctx context.Context, db *sql.DB) (done bool, err error) {
	err = db.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) = %d FROM fleet.done", statements)).Scan(&done)
	return done, err
}
