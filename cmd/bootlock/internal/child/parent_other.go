//go:build unix && !linux

package child

import "syscall"

// dieWithParent is for Linux only.
func dieWithParent(*syscall.SysProcAttr) {}
