package bounded

import "context"

const CleanUp = cleanUp

// TxContext is what the transaction was begun with.
func (c *Conn) TxContext() context.Context { return c.ctx }
