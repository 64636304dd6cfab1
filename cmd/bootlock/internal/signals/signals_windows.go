package signals

import (
	"os"
	"syscall"
)

// caught are the signals that Windows makes of console events.
func caught() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

// Ends reports whether sig asks a process to end.
func Ends(os.Signal) bool { return true }
