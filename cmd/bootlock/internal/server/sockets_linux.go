package server

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watch calls closed when the other side closes conn, or the connection breaks.
// The result, nil if conn cannot be watched, ends that.
func watch(conn net.Conn, closed func()) (stop func()) {
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.Close() //nolint:errcheck // nothing was written
		_ = control.Control(func(fd uintptr) {
			if hungUp(int32(fd), int32(r.Fd())) { //nolint:gosec // file descriptors are small
				go closed()
			}
		})
	}()
	return sync.OnceFunc(func() {
		_ = w.Close()
		<-done
	})
}

// hungUp blocks until the other side of fd is gone, or that of wake is.
func hungUp(fd, wake int32) bool {
	const gone = unix.POLLRDHUP | unix.POLLHUP | unix.POLLERR
	fds := []unix.PollFd{{Fd: fd, Events: unix.POLLRDHUP}, {Fd: wake, Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || fds[1].Revents != 0:
			return false
		case fds[0].Revents&gone != 0:
			return true
		}
	}
}
