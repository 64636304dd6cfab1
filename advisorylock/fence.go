package advisorylock

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/bootlock/bootlock/internal/bounded"
	"github.com/bootlock/bootlock/internal/fence"
)

// Fence makes tx safe against the loss of the lease that ctx carries: the
// context that [Hold], [TryHold] or package schemaguard gave to a function, or
// one derived from it. It belongs at the beginning of a transaction that must
// not be committed after the next holder has begun.
//
// Nil means that the lease is not lost, and that no other Hold of its key begins
// before tx has ended, even if the lease is lost meanwhile. [ErrLost] means that the
// lease is lost and another holder may have begun: roll tx back. Any other error
// leaves open whether the lease is lost. If ctx carries no lease, Fence returns an
// error and sends nothing.
//
// tx may be of any pool, driver and pooler, and of any isolation level, but it
// must be on the same database, and on the primary. Under REPEATABLE READ and
// SERIALIZABLE the snapshot of tx is taken by Fence if that comes first, which
// is where it belongs: it sees all that earlier holders committed. What tx did
// before Fence is covered too; what it read before may be old.
//
// If several Holds are nested, ctx stands for the innermost; for an outer one
// pass the context that it gave.
//
// Fence costs one round trip, and takes no table and no clock. It does not
// block. It also limits how long tx may be idle between two statements, to the
// TTL of the lease unless a shorter idle_in_transaction_session_timeout is in
// force, so that a holder that is frozen within tx does not keep the next one
// out for longer than its lease would. A long statement does, until it ends.
//
// Call Fence outside savepoints: rolling back to an earlier savepoint undoes it.
// Fence does not cover effects outside tx, WithXactLock, which does not check the
// fence when it takes the key, and commits that the server loses, as in a failover to
// a standby that lags behind. docs/fence.md explains why it works.
//
// Fence may be called from several goroutines at once, for different
// transactions. It panics if ctx or tx is nil.
func Fence(ctx context.Context, tx *sql.Tx) error {
	if ctx == nil {
		panic("advisorylock.Fence: nil context")
	}
	if tx == nil {
		panic("advisorylock.Fence: nil *sql.Tx")
	}
	lease, ok := fence.From(ctx)
	if !ok {
		return fmt.Errorf("advisorylock.Fence: %w", fence.ErrNoLease)
	}
	if lease.Ended() {
		return fmt.Errorf("advisorylock.Fence %d: %w", lease.Key(), ErrLost)
	}
	var lives bool
	err := bounded.Do(ctx, func() error {
		result, err := tx.ExecContext(ctx, lease.CheckSQL())
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		lives = n == 1
		return err
	})
	if err != nil {
		return fmt.Errorf("advisorylock.Fence %d: %w", lease.Key(), err)
	}
	if !lives {
		return fmt.Errorf("advisorylock.Fence %d: %w", lease.Key(), ErrLost)
	}
	return nil
}
