//go:build unix && !linux

package main

import "syscall"

// dieWithParent is for Linux only.
func dieWithParent(*syscall.SysProcAttr) {}
