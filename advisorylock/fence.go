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
// Nil means that the lease is still there, and that no other Hold of its key
// begins before tx has ended, whatever becomes of the lease meanwhile. [ErrLost]
// means that it is not, and that somebody else may have begun: roll tx back. Any
// other error says nothing about the lease, except that a context without one is
// refused before anything is sent.
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
// Call Fence outside of savepoints: a rollback to one that is older than the call
// undoes it. Not covered are effects outside of tx, WithXactLock, which waits for
// no fence when it takes the key, and commits that the server itself forgets, as
// in a failover to a standby that is behind. docs/fence.md has the argument.
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
