// Package peers has what a user would pick instead of bootlock, and bootlock itself,
// each behind the same two functions, so that all of them can be given the same work.
package peers

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/bootlock/bootlock/bench/lab"
)

// Key is the lock that everybody takes, where a peer lets its users choose one.
const Key = 42

// Lock calls fn under the lock of a peer. It is not called again before it has
// returned.
type Lock func(ctx context.Context, fn func(ctx context.Context) error) error

// Peer is one way to take a lock. Its zero value is none; [All] has them.
type Peer struct {
	Name   string
	Module string // whose version the report names; empty for what needs no module
	Waits  string // how it waits for the lock, for people
	Own    bool   // it is bootlock
	OnlyOn string // the driver that it needs; empty: any

	open func(ctx context.Context, db *sql.DB) (Lock, func() error, error)
}

// Open makes p ready on a pool, as each process of a fleet does at its start. Some
// peers create a table then, or take their lock. The caller calls closed in the end,
// and closes db.
func (p Peer) Open(ctx context.Context, db *sql.DB) (lock Lock, closed func() error, err error) {
	return p.open(ctx, db)
}

// Parties makes p ready for n processes, each on a pool of its own of the database of
// dsn, and has each take the lock once: some peers do more the first time. The caller
// calls closeAll.
func (p Peer) Parties(ctx context.Context, dsn string, n int) (locks []Lock, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for _, c := range slices.Backward(closers) {
			c()
		}
	}
	for range n {
		db, err := lab.Pool("pgx", dsn, 2)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		closers = append(closers, func() { _ = db.Close() })
		lock, closed, err := p.Open(ctx, db)
		if err == nil {
			closers = append(closers, func() { _ = closed() })
			err = lock(ctx, func(context.Context) error { return nil })
		}
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		locks = append(locks, lock)
	}
	return locks, closeAll, nil
}

// Names of peers that others are compared with.
const (
	ByHand   = "BEGIN, lock, COMMIT by hand"
	Blocking = "pg_advisory_lock by hand"
	Hold     = "bootlock, Hold"
	XactLock = "bootlock, WithXactLock"
	Polling  = "polling every 100 ms by hand"
)

// All returns the peers, those first that the others are compared with.
func All() []Peer {
	return []Peer{
		{Name: ByHand, Waits: "blocks", open: openXact},
		{Name: XactLock, Waits: "bursts, then asks", Own: true, open: openXactLock},
		{Name: Hold, Waits: "bursts, then asks", Own: true, open: openHold},
		{Name: Blocking, Waits: "blocks", open: openBlocking},
		{Name: Polling, Waits: "asks every 100 ms", open: openPolling},
		{Name: "goose, session locker", Module: gooseModule, Waits: "asks every 5 s", open: openGooseSession(0)},
		{Name: "goose, session locker, every second", Module: gooseModule, Waits: "asks every 1 s, its shortest", open: openGooseSession(1)},
		{Name: "goose, table locker", Module: gooseModule, Waits: "asks every 5 s", open: openGooseTable(0)},
		{Name: "goose, table locker, every 50 ms", Module: gooseModule, Waits: "asks every 50 ms", open: openGooseTable(50)},
		{Name: "golang-migrate", Module: "github.com/golang-migrate/migrate/v4", Waits: "blocks, 15 s at most", open: openGolangMigrate},
		{Name: "tern", Module: "github.com/jackc/tern/v2", Waits: "blocks", OnlyOn: "pgx", open: openTern},
		{Name: "atlas, schema lock", Module: "ariga.io/atlas", Waits: "asks, 25 ms to 2 s apart", open: openAtlas},
		{Name: "cirello.io/pglock", Module: "cirello.io/pglock", Waits: "asks every 20 s", open: openCirello(0, 0)},
		{Name: "cirello.io/pglock, lease of 1 s", Module: "cirello.io/pglock", Waits: "asks every second", open: openCirello(1000, 400)},
		{Name: "allisson/go-pglock", Module: "github.com/allisson/go-pglock/v3", Waits: "blocks", open: openAllisson},
	}
}

// ByName returns the peer of a name, and panics if there is none.
func ByName(name string) Peer {
	for _, p := range All() {
		if p.Name == name {
			return p
		}
	}
	panic("peers: no peer is called " + name)
}

// onConn takes a connection, calls lock on it, fn, and unlock, as a careful user
// does. The connection is closed for good if it may still have the lock.
func onConn(db *sql.DB, lock, unlock func(ctx context.Context, conn *sql.Conn) error) Lock {
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := lock(ctx, conn); err != nil {
			return err
		}
		return errors.Join(fn(ctx), unlock(context.WithoutCancel(ctx), conn))
	}
}

func none() error { return nil }
