//go:build unix

package signals

import (
	"os"

	"golang.org/x/sys/unix"
)

// caught are the signals that are passed on to the command. SIGTSTP is among
// them so that bootlock does not stop, its heartbeats with it, while a command
// in a process group of its own goes on.
func caught() []os.Signal {
	signals := []os.Signal{
		unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
	}
	if !OnTerminal() {
		signals = append(signals, unix.SIGTSTP)
	}
	return signals
}

// Ends reports whether sig asks a process to end.
func Ends(sig os.Signal) bool {
	return sig == unix.SIGINT || sig == unix.SIGTERM || sig == unix.SIGHUP || sig == unix.SIGQUIT
}

// OnTerminal reports whether a person sits before us: stdin is a terminal and we
// are its foreground.
func OnTerminal() bool {
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
