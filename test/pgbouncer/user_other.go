//go:build !unix

package pgbouncer

import "os/exec"

func asUnprivileged(*exec.Cmd, string) error { return nil }
