//go:build linux || darwin || freebsd

package main

import (
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// withFD lends the descriptor of a connection.
func withFD(c *net.UnixConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// lockDir keeps other processes from making or removing sockets in a folder, for a moment. The lock is
// the system's and ends with the process. Whoever holds it for long is not waited for.
func lockDir(dir string) (unlock func()) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	for deadline := time.Now().Add(2 * controlTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK && err != unix.EINTR {
			break // it is ours, or the file system has no locks
		}
	}
	return func() { f.Close() }
}
