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
// The result, nil if conn cannot be watched, ends that and returns when its copy
// of the file descriptor is closed.
func watch(conn net.Conn, closed func()) (stop func()) {
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return nil
	}
	fd := -1
	if err := control.Control(func(original uintptr) {
		fd, _ = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || fd < 0 {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		_ = unix.Close(fd)
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.Close()      //nolint:errcheck // nothing was written
		defer unix.Close(fd) //nolint:errcheck // a copy
		if hungUp(fd, int(r.Fd())) {
			go closed()
		}
	}()
	return sync.OnceFunc(func() {
		_ = w.Close()
		<-done
	})
}

// hungUp blocks until the other side of fd is gone, or that of wake is.
func hungUp(fd, wake int) bool {
	const gone = unix.POLLRDHUP | unix.POLLHUP | unix.POLLERR
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}, {Fd: int32(wake), Events: unix.POLLIN}}
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
