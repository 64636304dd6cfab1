package child

import "syscall"

// dieWithParent makes the command end if this process is killed by SIGKILL, which
// frees the lock. Its own children are out of reach of it; see watch.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }
