package main

import "syscall"

// dieWithParent makes the command end if bootlock is killed by SIGKILL, which
// frees the lock. Its own children are out of reach then.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }
