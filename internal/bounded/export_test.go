package bounded

import "context"

const CleanUp = cleanUp

// Heed makes c treat its driver as one whose calls end with their context, as
// pgx is, which is not for this module to import.
func (c *Conn) Heed() { c.heed = true }

// TxContext is what the transaction was begun with.
func (c *Conn) TxContext() context.Context { return c.ctx }
