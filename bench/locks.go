package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/pressly/goose/v3/lock"

	"github.com/bootlock/bootlock/advisorylock"
)

// A locker calls fn under the lock of a key. All contestants have this form.
type locker func(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error

func xactLock(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error {
	return advisorylock.WithXactLock(ctx, db, key, func(ctx context.Context, _ *sql.Tx) error { return fn(ctx) })
}

// polling is the plainest way to wait without keeping a connection: try, pause,
// try again. The lock's transaction stays on a connection of its own while fn
// uses the pool.
func polling(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error {
	for began := time.Now(); ; {
		locked, err := try(ctx, db, key, fn)
		if locked || err != nil {
			return err
		}
		longest := min(max(time.Since(began)/10, 2*time.Millisecond), 250*time.Millisecond)
		pause(ctx, longest/2+rand.N(longest/2)) // after the end of ctx, try returns its error
	}
}

func try(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) (locked bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback() //nolint:errcheck // after the commit there is nothing to roll back
	err = tx.QueryRowContext(ctx, fmt.Sprintf("SELECT pg_try_advisory_xact_lock(%d)", key)).Scan(&locked)
	if err != nil || !locked {
		return false, err
	}
	if err := fn(ctx); err != nil {
		return true, err
	}
	return true, tx.Commit()
}

// plainXact sends the least that a lock can cost.
func plainXact(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after the commit there is nothing to roll back
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", key)); err != nil {
		return err
	}
	if err := fn(ctx); err != nil {
		return err
	}
	return tx.Commit()
}

func plain(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error {
	exec := func(function string) func(ctx context.Context, conn *sql.Conn) error {
		return func(ctx context.Context, conn *sql.Conn) error {
			_, err := conn.ExecContext(ctx, fmt.Sprintf("SELECT %s(%d)", function, key))
			return err
		}
	}
	return onConn(ctx, db, exec("pg_advisory_lock"), exec("pg_advisory_unlock"), fn)
}

func onConn(ctx context.Context, db *sql.DB, lock, unlock func(ctx context.Context, conn *sql.Conn) error, fn func(ctx context.Context) error) error {
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

// gooseSession is goose's session locker as it comes. A new one for each use: it
// counts its attempts over all of them.
func gooseSession(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error {
	l, err := lock.NewPostgresSessionLocker(lock.WithLockID(int64(key)))
	if err != nil {
		return err
	}
	return onConn(ctx, db, l.SessionLock, l.SessionUnlock, fn)
}

// gooseTable is goose's table locker as it comes. It takes no negative keys.
func gooseTable(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(ctx context.Context) error) error {
	l, err := lock.NewPostgresTableLocker(lock.WithTableLockID(int64(key & math.MaxInt64)))
	if err != nil {
		return err
	}
	if err := l.Lock(ctx, db); err != nil {
		return err
	}
	return errors.Join(fn(ctx), l.Unlock(context.WithoutCancel(ctx), db))
}
