package child

import (
	"errors"
	"io"
)

// WatchdogCommand is the hidden subcommand of this program that calls [Watchdog].
const WatchdogCommand = "watchdog"

// Watchdog is for Unix only.
func Watchdog(string, io.Reader) error { return errors.New("not on Windows") }
