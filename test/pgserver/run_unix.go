//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Dir makes a folder for a server that [Run] runs. It is closed to others. It is in
// /tmp: the name of a Unix socket may not be long, and root's own temporary folder may
// be closed to the server.
func Dir() (string, error) {
	cred, err := serverUser()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("/tmp", "bootlock-server-")
	if err != nil || cred == nil {
		return dir, err
	}
	if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

// serverUser returns the user to run a server as when this process is root, as
// which servers refuse to run; nil means this user.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("root cannot run a server, and there is no user postgres or nobody")
}

// Command returns a command of the user of servers, in dir, without the variables
// that would steer a server (PGDATA and the like), with messages in English.
func Command(dir, name string, args ...string) (*exec.Cmd, error) {
	cred, err := serverUser()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.Env = []string{"LC_ALL=C"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return cmd, nil
}

// Run has a shell run a script in dir, as the user of servers, in a session of its own.
// It reads from a pipe, of which this process holds the only other end, close-on-exec so
// that no child of it keeps that open: however this process ends, SIGKILL included, the
// script sees the end of its input and has to clean up. stop ends the input, and waits:
// an immediate shutdown takes the server five seconds at most, then it kills what is left.
//
// No output goes to this process's: `go test` would wait for it to be closed.
func Run(dir, script string, args ...string) (stop func() error, err error) {
	cmd, err := Command(dir, "/bin/sh", append([]string{"-c", script, "bootlock-server"}, args...)...)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Setsid = true
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // which also keeps the pipe from the garbage collector
	return sync.OnceValue(func() error {
		_ = pipe.Close()
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			return fmt.Errorf("the watchdog, process %d, has not cleaned up within 20 s", cmd.Process.Pid)
		}
	}), nil
}
