//go:build unix

package main

import (
	"fmt"
	"syscall"
)

const sigUSR1 = syscall.SIGUSR1

// boundPort returns an address on loopback where connections are refused until free is called: a port that
// is only bound. One that was listened on and closed may be somebody else's a moment later.
func boundPort() (addr string, free func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return "", nil, err
	}
	syscall.CloseOnExec(fd)
	free = func() { syscall.Close(fd) }
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		free()
		return "", nil, err
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		free()
		return "", nil, err
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port), free, nil
}
